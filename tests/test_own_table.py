"""docs/own_table.md as a user follows it: each of its commands, in its order, in an empty folder."""

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import fewstep.transport
import train
from datamodules import PairedVectorsDataModule
from datamodules.prepare.__main__ import main as prepare

ROOT = Path(train.__file__).parent
PAGE = (ROOT / "docs" / "own_table.md").read_text()
SHORT = ["--trainer.max_steps", "200", "--trainer.accelerator", "cpu", "--wandb", "disabled"]


def blocks():
    return re.findall(r"^```(bash|python)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The folder after all commands, and what they printed."""
    folder = tmp_path_factory.mktemp("own_table")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("configs").symlink_to(ROOT / "configs")
        for kind, text in blocks():
            if kind == "python":
                exec(compile(text, "docs/own_table.md", "exec"), {})
                continue
            for line in text.strip().splitlines():
                words = shlex.split(line)
                if words[:3] == ["python", "-m", "datamodules.prepare"]:
                    assert prepare(words[3:]) == 0
                else:
                    assert words[:2] == ["python", "train.py"]
                    short = SHORT if words[2] == "fit" else SHORT[2:]
                    assert train.main([*words[2:], *short]) == 0, line
    return folder


def read(file):
    with file.open(newline="") as opened:
        titles, *rows = csv.reader(opened)
    return titles, np.array(rows, dtype=np.float64)


def test_every_block_is_run_and_each_kind_is_there(followed):
    kinds = [kind for kind, _ in blocks()]
    assert kinds == ["python", "bash", "bash", "bash", "python", "python"]
    assert {path.name for path in (followed / "runs" / "mine").iterdir()} >= {"checkpoints", "export", "predictions"}


def test_the_predictions_are_of_the_rows_and_in_their_units(followed):
    made = followed / "runs" / "mine" / "predictions"
    titles, rows = read(made / "pairs.csv")
    names = [f"{what} power" for what in ("mean", "q0.05", "q0.25", "q0.5", "q0.75", "q0.95")]
    assert titles == ["row", "wind", "kelvin", *names, "log_density"]
    _, given = read(followed / "pairs.csv")
    np.testing.assert_allclose(rows[:, 1:3], given[:, :2], rtol=1e-12)
    assert (np.diff(rows[:, 4:9], axis=1) > 0).all()
    model = fewstep.transport.load(followed / "runs" / "mine")
    np.testing.assert_allclose(rows[:, 3:4], model.mean(given[:, :2]), rtol=1e-6)
    expected = model.log_density(given[:, 2:], given[:, :2])
    np.testing.assert_allclose(rows[:, 9], expected, rtol=1e-5, atol=1e-4)
    titles, drawn = read(made / "pairs-samples.csv")
    assert titles == ["row", "sample", "power"]
    assert len(drawn) == 200 * 100
    with Image.open(made / "pairs-density.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5


def test_the_models_lines_are_the_pages(followed, capsys, monkeypatch):
    monkeypatch.chdir(followed)
    fit = next(text for _, text in blocks() if "train.py fit" in text)
    words = [word.replace("runs/mine", "runs/again") for word in shlex.split(fit)[2:]]
    assert train.main([*words, *SHORT, "--trainer.max_steps", "1", "--test_after_fit", "false"]) == 0
    printed = capsys.readouterr().out
    for line in re.findall(r"^    (.*)$", PAGE, re.MULTILINE):
        assert line in printed


def test_new_rows_are_measured_in_the_units_of_the_training(followed, monkeypatch, capsys):
    """The same rows, prepared by their own means and by those of the training; the likelihood is that of the model."""
    monkeypatch.chdir(followed)
    table = np.loadtxt("pairs.csv", delimiter=",", skiprows=1)[:60] * [1.0, 1.0, 0.5]
    np.savetxt("new.csv", table, delimiter=",", header="wind,kelvin,power", comments="")
    words = ["table", "--pairs", "new.csv", "--x-columns", "wind,kelvin", "--y-columns", "power"]
    assert prepare([*words, "--out", "data/own", "--test-fraction", "0.5"]) == 0
    assert prepare([*words, "--out", "data/like", "--test-fraction", "0.5", "--like", "data/mine"]) == 0
    ask = ["runs/mine", "--out", "report", "--data"]
    capsys.readouterr()
    assert evaluate.main([*ask, "data/own"]) == 2
    error = capsys.readouterr().err
    assert re.match(
        r"error: the data are in other units than those of the training: \w+ of [xy] is standardised", error
    )
    assert error.count("\n") == 1
    assert evaluate.main([*ask, "data/like"]) == 0
    (run,) = json.loads(Path("report/metrics.json").read_text())["runs"]
    rows = PairedVectorsDataModule("data/like").test_columns[0]
    index = json.loads(Path("data/mine/index.json").read_text())
    x, y = (rows[s].double() * torch.tensor(index[f"{s}_std"]) + torch.tensor(index[f"{s}_mean"]) for s in "xy")
    expected = -fewstep.transport.load("runs/mine").log_density(y, x).mean().item()
    assert run["metrics"]["test/nll_natural"] == pytest.approx(expected, rel=1e-4)
    low, high = run["intervals"]["test/nll_natural"]
    assert low < expected < high
    assert "in natural units" in Path("report/report.html").read_text()


def test_other_columns_are_not_those_of_the_folder(followed, monkeypatch, capsys):
    monkeypatch.chdir(followed)
    words = ["table", "--pairs", "pairs.csv", "--x-columns", "kelvin,wind", "--y-columns", "power"]
    assert prepare([*words, "--out", "data/other", "--like", "data/mine"]) == 2
    assert capsys.readouterr().err.startswith("error: x of --like data/mine is wind, kelvin; give the same columns")


def test_the_export_answers_as_the_run_does(followed):
    run, export = (fewstep.transport.load(followed / place) for place in ("runs/mine", "runs/mine/export"))
    x = [[8.0, 285.0], [12.0, 290.0]]
    assert torch.equal(run.sample(x, 5), export.sample(x, 5))
    assert torch.equal(run.quantiles(x, [0.1, 0.9]), export.quantiles(x, [0.1, 0.9]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.x", "no.csv"], "no file no.csv"),
        (["--data.x", "more_x.csv", "--data.y", "pairs.csv"], "more_x.csv has 1000 rows and pairs.csv 200"),
        (["--data.x", "cut.csv"], "cut.csv: no column 'kelvin', only wind, power"),
        (["--data.x", "words.csv"], "words.csv: line 2, column wind is 'strong', not a number"),
        (["--data.x", "pairs.csv", "--data.levels", "[0.5, 1.0]"], "levels=1.0: give levels above 0 and below 1"),
        (["--data.x", "pairs.csv", "--callbacks.writer.plot", "201"], "plot=201: the table has 200 rows"),
        (["--data.x", "rows.parquet"], "reading parquet needs pyarrow"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(followed, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(followed)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    Path("cut.csv").write_text("wind,power\n1,2\n")
    Path("words.csv").write_text("wind,kelvin\nstrong,280\n")
    Path("rows.parquet").write_bytes(b"PAR1")
    given = ["-c", "configs/ot_conditional/predict.yaml", "--ckpt_path", "runs/mine/checkpoints/best.ckpt"]
    given += ["--callbacks.writer.folder", "elsewhere", "--trainer.accelerator", "cpu"]
    capsys.readouterr()
    assert train.main(["predict", *given, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("elsewhere").exists()
