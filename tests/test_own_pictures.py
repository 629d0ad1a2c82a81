"""docs/own_pictures.md: every command of the page, in its order, on forty tiny pictures and with a few steps."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image

import train

ROOT = Path(train.__file__).parent
PAGE = (ROOT / "docs" / "own_pictures.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [shlex.split(line) for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "white": (250, 250, 250)}
SHORT = ["--trainer.max_steps", "2", "--data.steps_per_epoch", "2", "--data.batch_size", "4"]
SHORT += ["--data.eval_batch_size", "4", "--data.num_workers", "0", "--wandb", "disabled", "--num_threads", "1"]
SHORT += ["--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"]
OF_THE_TEACHER = ["--model.sampling_steps", "1"]


def write_pictures(folder: Path) -> None:
    """Forty squares of four colours, and one that the page edits, with a caption beside each."""
    folder.mkdir()
    for number in range(40):
        name = list(COLOURS)[number % 4]
        Image.new("RGB", (64, 64), COLOURS[name]).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {name} square")
    Image.new("RGB", (64, 64), COLOURS["red"]).save(folder / "one.png")
    (folder / "one.txt").write_text("a red square")


def run(words: list[str]) -> int:
    """A command of the page, in this process."""
    if words[1] == "-m":
        return import_module(f"{words[2]}.__main__").main(words[3:])
    assert words[:2] == ["python", "train.py"]
    short = [*SHORT, *(OF_THE_TEACHER if "configs/diffusion_teacher/emoji.yaml" in words else [])]
    return train.main([*words[2:], *(short if words[2] == "fit" else [])])


@pytest.mark.slow
def test_every_command_of_the_page_runs_in_its_order(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_pictures(tmp_path / "pictures")
    said = ""
    for words in COMMANDS:
        assert run(words) == 0, (shlex.join(words), capsys.readouterr().err)
        out, err = capsys.readouterr()
        said += err
        if words[2] == "fit":
            folder = words[words.index("--run_dir") + 1]
            assert f"export         {folder}/export" in out
            assert f"{folder}/export" in out.splitlines()[-1]  # the command that takes it
    with Image.open("edited.png") as edited:
        assert edited.size == (64, 64)
    assert "another data set's" not in said
    used = "data/mine: split 'val' has 2 samples, all of which are used; splits.num_val allows 64"
    assert used in caplog.messages


def test_the_page_trains_all_stages_and_names_what_is_there():
    fits = [words[words.index("-c") + 1] for words in COMMANDS if words[2] == "fit"]
    stages = ["diffusion_teacher/autoencoder_emoji", "contrastive/emoji", "diffusion_teacher/emoji"]
    assert fits == [f"configs/{name}.yaml" for name in [*stages, "guidance_distillation/emoji", "icd/emoji"]]
    for place in re.findall(r"\]\(([\w/]+\.md)", PAGE):
        assert (ROOT / "docs" / place).is_file()
