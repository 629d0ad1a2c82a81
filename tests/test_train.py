"""train.py as a user starts it: fast help, several processes, a kill in the middle."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import train
from tests.forks import Fork
from tests.patience import PATIENCE
from tests.tiny_faults import dies_before

ROOT = Path(train.__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
CONFIG = {
    "model": {"class_path": "tests.callbacks.tiny_run.TinyModule"},
    "data": {"class_path": "tests.callbacks.tiny_run.TinyData"},
    "trainer": {"accelerator": "cpu"},
    "wandb": "disabled",
}


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), "fit", "-c", "tiny.yaml", *arguments]


def load(path: str | Path) -> dict:
    return torch.load(path, weights_only=True)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    torch.set_num_threads(1)
    return tmp_path


@pytest.mark.parametrize(("argument", "expected"), [("--help", "usage:"), ("-h", "--dry_run"), ("", "--resume")])
def test_help_does_not_import_torch(argument, expected):
    code = f"import sys, train; train.main({[argument] if argument else []}); assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    assert expected in result.stdout


def test_version_is_that_of_the_package(capsys):
    metadata = (ROOT / "pyproject.toml").read_text()
    assert train.main(["--version"]) == 0
    assert f'version = "{capsys.readouterr().out.split()[-1]}"' in metadata


def test_two_processes_give_the_result_of_one(folder):
    """The same global batch on one and on two processes: the same weights but for the order of additions."""
    still = ["--model.noise", "0", "--trainer.max_steps", "25"]  # noise differs between ranks, as it should
    two = subprocess.run(
        command("--run_dir", "two", *still, "-c", str(ROOT / "configs/trainer/ddp.yaml"), "--trainer.devices", "2"),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert two.returncode == 0, two.stderr
    assert two.stderr == ""
    assert two.stdout.count("test/nll") == 1
    assert "device  2 x cpu" in two.stdout
    assert train.main(command("--run_dir", "one", *still)[2:]) == 0
    states = [load(f"{name}/checkpoints/last.ckpt") for name in ("one", "two")]
    for name, weight in states[0]["state_dict"].items():
        torch.testing.assert_close(states[1]["state_dict"][name], weight, rtol=1e-5, atol=1e-6)
    val = [state["callbacks"] for state in states]
    scores = [next(v["best_model_score"] for k, v in c.items() if k.startswith("ModelCheckpoint")) for c in val]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-6)
    assert sorted(p.name for p in Path("two").iterdir()) == [".lock", "checkpoints", "config.yaml", "logs"]


def test_gloos_process_group_ends_before_the_interpreter(folder):
    """Lightning leaves it, and its threads may abort a process that ends; see commands/process.py."""
    alone = ["--run_dir", "alone", "--trainer.max_steps", "2", "--test_after_fit", "false", "--trainer.devices", "1"]
    argv = command(*alone, "-c", str(ROOT / "configs/trainer/ddp.yaml"))[2:]
    done = Fork("tests.tiny_group_end", argv, folder / "stdout", folder / "stderr")
    assert (done.wait(), (folder / "stderr").read_text()) == (0, "")
    assert done.text().splitlines()[-1] == "group {'gloo'} False"


def test_killed_and_resumed_equals_never_killed(folder):
    """SIGKILL before a random step; what was lost since the last checkpoint is repeated exactly."""
    steps = [
        "--trainer.max_steps",
        "400",
        "--callbacks.last_checkpoint.every_n_steps",
        "7",
        "--test_after_fit",
        "false",
    ]
    moment = random.randrange(8, 400)
    death = ["--callbacks.death", json.dumps(dies_before(moment, folder / "killed" / "died"))]
    killed = Fork("train", command("--run_dir", "killed", *steps, *death)[2:], folder / "output")
    assert killed.wait() == -signal.SIGKILL, killed.text()
    assert moment - 7 <= load("killed/checkpoints/last.ckpt")["global_step"] <= moment
    assert train.main(["fit", "--run_dir", "killed", "--resume", "auto"]) == 0
    assert train.main(command("--run_dir", "whole", *steps)[2:]) == 0
    killed, whole = (load(f"{name}/checkpoints/last.ckpt") for name in ("killed", "whole"))
    assert killed["global_step"] == whole["global_step"] == 400
    for part in ("state_dict",), ("callbacks", "EMA", "average"):
        one, two = killed, whole
        for key in part:
            one, two = one[key], two[key]
        assert all(torch.equal(one[name], two[name]) for name in two)
