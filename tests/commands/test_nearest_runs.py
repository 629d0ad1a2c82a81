"""A folder that is not there: a new run on purpose, or a slip of the hand."""

import os
from pathlib import Path

import pytest

import evaluate
import train
from commands.nearest_runs import mistyped, nearest_runs, refuse_folder_of_runs, refuse_mistyped

RUNS = ["weather", "seed_0", "lr_1e-3", "encoder", "small", "20261128-101512-ab12", "20261127-090000-0f3c"]


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """runs/NAME for each of RUNS, the last the oldest."""
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(RUNS):
        folder = Path("runs", name)
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.yaml").touch()
        os.utime(folder, (2e9 - age, 2e9 - age))
    return Path("runs")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("weahter", "weather"),
        ("wether", "weather"),
        ("weatherr", "weather"),
        ("weathex", "weather"),
        ("Weather", "weather"),
        ("20261128-101512", "20261128-101512-ab12"),
        ("20261128-101512-ab21", "20261128-101512-ab12"),
        ("20261127-090000-0f3d", "20261127-090000-0f3c"),
        ("seed_1", None),
        ("seed_00", None),
        ("lr_1e3", None),
        ("lr_2e-3", None),
        ("decoder", None),
        ("smaller", None),
        ("weather_2", None),
        ("weather_b", None),
        ("other", None),
        ("7", None),
    ],
)
def test_slips_are_told_from_new_names(runs, name, meant):
    assert mistyped(runs / name) == (meant and runs / meant)
    if meant:
        with pytest.raises(
            ValueError, match=f"does not exist; nearest run: runs/{meant}; .*mkdir runs/{name} "
        ) as error:
            refuse_mistyped(runs / name)
        assert "\n" not in str(error.value)
    else:
        refuse_mistyped(runs / name)


def test_a_folder_that_exists_is_meant(runs):
    (runs / "weahter").mkdir()
    refuse_mistyped(runs / "weahter")
    refuse_mistyped(Path("elsewhere"))


def test_a_folder_of_runs_is_not_one(runs):
    with pytest.raises(ValueError, match=r"^runs holds runs and is none itself; nearest runs: runs/weather, "):
        refuse_mistyped(runs)


def test_the_nearest_are_the_most_similar_else_the_newest(runs):
    assert nearest_runs(runs) == [runs / name for name in RUNS[:3]]
    assert nearest_runs(runs / "weathr")[0] == runs / "weather"
    assert nearest_runs(Path("elsewhere/entirely/unlike")) == [runs / name for name in RUNS[:3]]
    assert nearest_runs(Path("run/weather"))[0] == runs / "weather"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--resume", "auto"], "add --run_dir RUN; nearest runs: runs/weather, "),
        (
            ["--resume", "auto", "--run_dir", "runs"],
            "--run_dir runs is not a run, it has no config.yaml; nearest",
        ),
        (
            ["--resume", "auto", "--run_dir", "runs/wether"],
            "has no config.yaml; nearest runs: runs/weather",
        ),
        (["--resume", "runs/wether/checkpoints/last.ckpt"], "last.ckpt does not exist; nearest runs: runs/weather"),
        (["--resume", "runs"], "--resume runs is a folder; use --run_dir runs --resume auto"),
        (["--resume", "s3://bucket/last.ckpt"], "comes without a config; add -c"),
    ],
)
def test_without_a_config_the_nearest_runs_are_named(runs, capsys, arguments, expected):
    before = sorted(Path().rglob("*"))
    assert train.main(["fit", *arguments]) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    assert "no model is given" not in err


def test_a_run_without_its_config_is_not_its_own_neighbour(runs, capsys):
    (runs / "weather" / "config.yaml").unlink()
    (runs / "weather" / "checkpoints" / "last.ckpt").touch()
    assert train.main(["fit", "--resume", "auto", "--run_dir", "runs/weather"]) == 2
    err = capsys.readouterr().err
    assert err == "error: runs/weather/config.yaml does not exist; add -c with the config of this run\n"
    assert runs / "weather" not in nearest_runs(runs / "weather")


def test_a_first_start_under_a_scheduler_needs_no_folder(fit, runs):
    """`--resume auto` in a job script: the same line starts a run and goes on with it."""
    assert fit("--run_dir", "runs/seed_1", "--resume", "auto", "--trainer.max_steps", "2") == 0
    assert fit("--run_dir", "runs/seed_1", "--resume", "auto", "--trainer.max_steps", "3") == 0
    assert fit("--run_dir", "runs/wether", "--resume", "auto", "--trainer.max_steps", "2") == 2
    assert not Path("runs/wether").exists()


def test_a_folder_of_runs_lists_them_for_evaluation(runs, capsys):
    assert evaluate.main([str(runs), "--out", "out"]) == 2
    listed = " ".join(str(runs / name) for name in RUNS)
    assert capsys.readouterr().err == f"error: runs holds runs and is none itself; name some of them: {listed}\n"
    for number in range(6):
        (runs / f"more_{number}").mkdir()
        (runs / f"more_{number}" / "config.yaml").touch()
    with pytest.raises(ValueError, match=r" and 1 more$"):
        refuse_folder_of_runs(runs)
    refuse_folder_of_runs(runs / "weather")
    (runs / "empty").mkdir()
    refuse_folder_of_runs(runs / "empty")
