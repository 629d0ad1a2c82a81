"""train.py when its checkpoints cannot be written: one process and two, stop and warn."""

from pathlib import Path

import pytest
import yaml

import train
from tests.forks import two_ranks
from tests.test_train import CONFIG, ROOT

BLOCKED = ["--callbacks.last_checkpoint.folder", "blocked/checkpoints", "--test_after_fit", "false"]
BLOCKED += ["--callbacks.block", "tests.tiny_faults.Blocks", "--callbacks.block.path", "blocked"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where `blocked` becomes a file as training begins, so that no folder can be made there."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


def fit(*arguments: str) -> int:
    return train.main(["fit", "-c", "tiny.yaml", "--run_dir", "run", "--trainer.max_steps", "25", *arguments, *BLOCKED])


def test_warn_trains_to_the_end(folder, capsys):
    assert fit("--trainer.plugins.init_args.on_failure", "warn", "--trainer.plugins.init_args.max_failures", "9") == 0
    err = capsys.readouterr().err
    assert [f"(failure {n} of 9 in a row)" in err for n in (1, 2, 3, 4)] == [True, True, True, False]
    assert Path("run/checkpoints/best.ckpt").is_file()


def test_what_is_in_the_way_from_the_beginning_is_said_before_a_step(folder, capsys):
    Path("blocked").touch()
    assert fit() == 2
    assert capsys.readouterr().err == "error: blocked/checkpoints is no folder; checkpoints go there: move it away\n"
    assert not Path("run").exists()


def test_stop_ends_with_the_reason(folder, capsys):
    assert fit() == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: checkpoint blocked/checkpoints/last.ckpt was not written: ")
    assert Path("run/checkpoints/best.ckpt").is_file()


@pytest.mark.slow
def test_a_failure_on_the_writing_rank_ends_both(folder):
    """Rank 1 waits in the barrier after the save while rank 0 raises."""
    ddp = ["-c", str(ROOT / "configs/trainer/ddp.yaml"), "--trainer.devices", "2", "--run_dir", "run"]
    ranks = two_ranks("train", ["fit", "-c", "tiny.yaml", *ddp, *BLOCKED], folder)
    assert ranks[0].wait() == 1, ranks[0].text()
    assert ranks[1].wait() != 0
    assert "last.ckpt was not written" in ranks[0].text()
    assert Path("run/checkpoints/best.ckpt").is_file()
