"""What a run prints for the user's shell means there what it says, whatever the folders are called."""

import random
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

import train
from callbacks.checkpoints.printed_commands import evaluate_command, resume_flags
from callbacks.tracking.wandb_connection import sync_command
from commands import trusted_code
from commands.train.dead_ranks import RankWatch
from commands.train.summary import print_next_step

ROOT = Path(train.__file__).parent
AWKWARD = " ;&|<>()$`\\\"'*?[]{}#~!=%\n\tä"
PACKAGES = ("fewstep", "lightning_modules", "datamodules", "callbacks")


def names(seed: int):
    draw = random.Random(seed)
    return ["r" + "".join(draw.choices(AWKWARD + "ab", k=draw.randrange(1, 9))) for _ in range(2)]


@pytest.mark.parametrize("seed", range(30))
def test_the_words_of_a_shell_are_those_meant(seed, tmp_path, capsys, monkeypatch):
    folder = tmp_path.joinpath(*names(seed))
    best = folder / "checkpoints" / "best.ckpt"
    words = ["python", "evaluate.py", str(best), "--out", str(folder / "evaluation")]
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")  # by `uv run`
    assert shlex.split(evaluate_command(best, folder / "evaluation")) == ["uv", "run", *words]
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH")
    assert shlex.split(evaluate_command(best, folder / "evaluation")) == words
    assert shlex.split(resume_flags(folder)) == ["--run_dir", str(folder), "--resume", "auto"]
    print_next_step(folder, best, None)
    assert shlex.split(capsys.readouterr().out.partition("next  ")[2]) == words
    (folder / "wandb" / "offline-run-1-abc").mkdir(parents=True)
    assert shlex.split(sync_command(folder, "abc"))[2:] == [str(folder / "wandb" / "offline-run-1-abc")]
    best.with_name("last.ckpt").parent.mkdir()
    best.with_name("last.ckpt").touch()
    lost = RankWatch._line(SimpleNamespace(_folder=folder, _trainer=SimpleNamespace(global_rank=0)), "lost")
    assert shlex.split(lost.partition("go on with ")[2]) == ["--run_dir", str(folder), "--resume", "auto"]


def test_an_installed_command_names_itself(monkeypatch):
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    monkeypatch.setattr("sys.argv", ["/usr/bin/fewstep"])
    assert evaluate_command("a.ckpt", Path("o")) == "fewstep evaluate a.ckpt --out o"


def test_a_trusted_package_is_trusted_by_the_next_command(monkeypatch):
    trusted_code.take_trust(["fit", "--trust", "mine.nets"])
    try:
        assert evaluate_command("a.ckpt", Path("o")).endswith("--out o --trust mine.nets")
        assert resume_flags("r") == "--run_dir r --resume auto --trust mine.nets"
    finally:
        trusted_code.take_trust([])


def test_no_other_line_of_the_code_puts_a_path_behind_a_flag_unquoted():
    """An f-string with `--run_dir {x}` or `evaluate.py {x}` and no quote() in it."""
    flags = r"--(?:run_dir|resume|ckpt_path|out|data|config)|evaluate\.py|train\.py \w+|wandb sync"
    flag = re.compile(rf"({flags}) \{{(\w+)")
    found = [
        (file.name, match[0])
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
        for line in file.read_text().splitlines()
        for match in flag.finditer(line)
        if match[2] != "quote" and line[match.start() - 1] != '"'  # a line that begins so repeats what was given
    ]
    assert found == []
