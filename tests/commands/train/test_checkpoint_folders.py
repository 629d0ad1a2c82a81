"""Checkpoints that do not lie in the run folder: found again, and never replaced by another run."""

import hashlib
from pathlib import Path

import pytest

import train

ELSEWHERE = {
    "the trainer's folder": (["--trainer.default_root_dir", "root"], "root/checkpoints/last.ckpt"),
    "one folder for all": (
        ["--callbacks.last_checkpoint.folder", "all", "--callbacks.checkpoint.dirpath", "all"],
        "all/last.ckpt",
    ),
    "the last alone": (["--callbacks.last_checkpoint.folder", "apart/a"], "apart/a/last.ckpt"),
    "the run's own by another name": (["--trainer.default_root_dir", "run/../run"], "run/checkpoints/last.ckpt"),
}
SHORT = ["--test_after_fit", "false"]


def digests() -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in Path().rglob("*.ckpt") if p.is_file()}


@pytest.mark.parametrize("place", ELSEWHERE)
def test_auto_looks_where_the_savers_write(fit, load, capsys, place):
    flags, last = ELSEWHERE[place]
    assert fit("--run_dir", "run", "--trainer.max_steps", "2", *flags, *SHORT) == 0
    assert load(last)["global_step"] == 2
    capsys.readouterr()
    named = ["-c", "run/config.yaml", "--run_dir", "run", "--resume", "auto"]
    assert train.main(["fit", *named, "--trainer.max_steps", "3"]) == 0
    assert f"resume  {last}" in capsys.readouterr().out
    assert load(last)["global_step"] == 3


def test_another_runs_checkpoints_are_not_replaced(fit, capsys):
    shared = ["--trainer.default_root_dir", "root", "--trainer.max_steps", "2", *SHORT]
    assert fit("--run_dir", "run", *shared) == 0
    before = digests()
    for how in ([], ["--resume", "auto"]):
        capsys.readouterr()
        assert fit("--run_dir", "new", *shared, *how) == 2
        err = capsys.readouterr().err
        assert "root/checkpoints/last.ckpt is of another run" in err
        assert err.count("\n") == 1
        assert not Path("new").exists()
    assert digests() == before


def test_a_store_is_not_searched_and_not_written_over(fit, tmp_path, capsys):
    to = ["--callbacks.last_checkpoint.folder", f"memory://{tmp_path.name}/c", *SHORT]
    assert fit("--run_dir", "run", "--trainer.max_steps", "12", *to) == 0
    assert Path("run/checkpoints/best.ckpt").is_file()  # of step 10
    capsys.readouterr()
    assert fit("--run_dir", "run", "--trainer.max_steps", "12", *to, "--resume", "auto") == 2
    err = capsys.readouterr().err
    assert f"--resume memory://{tmp_path.name}/c/last.ckpt --run_dir NEW" in err
    assert err.count("\n") == 1


def test_damage_does_not_send_a_run_back_to_the_beginning(fit, capsys):
    assert fit("--run_dir", "run", "--trainer.max_steps", "2", *SHORT) == 0
    for file in Path("run/checkpoints").iterdir():
        file.write_bytes(file.read_bytes()[:-99])
    before = digests()
    capsys.readouterr()
    assert fit("--run_dir", "run", "--resume", "auto") == 2
    *skipped, error = capsys.readouterr().err.splitlines()
    assert len(skipped) == len(before)
    assert error.startswith("error: no checkpoint in run/checkpoints is one that training can go on from")
    assert digests() == before


@pytest.mark.parametrize("how", [["--resume", "auto"], ["--resume", "run/checkpoints/best.ckpt"]])
@pytest.mark.parametrize("name", ["last.ckpt", "best-v1.ckpt"])
def test_a_folder_in_the_place_of_a_checkpoint_is_refused_before_training(fit, capsys, how, name):
    Path("run/checkpoints", name).mkdir(parents=True)
    Path("run/checkpoints", name, ".metadata").touch()  # as torch.distributed.checkpoint has it
    Path("run/checkpoints/best.ckpt").touch()
    assert fit("--run_dir", "run", *how) == 2
    err = capsys.readouterr().err
    assert f"run/checkpoints/{name} is a folder, where a run writes a file" in err
    assert err.count("\n") == 1


LOGGER = "lightning.pytorch.loggers.CSVLogger"


@pytest.mark.parametrize(
    "logger",
    [["--trainer.logger", "true"], ["--trainer.logger", LOGGER, "--trainer.logger.save_dir", "run"]],
)
def test_a_logger_may_write_into_the_run_folder(fit, logger):
    assert fit("--run_dir", "run", "--trainer.max_steps", "1", "--trainer.log_every_n_steps", "1", *logger, *SHORT) == 0
    assert Path("run/config.yaml").is_file()
    assert list(Path("run/lightning_logs").rglob("metrics.csv"))
