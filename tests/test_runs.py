"""The real method through the two scripts: a run and its evaluation, a kill and a resume, two processes, bad input."""

import io
import json
import random
import shutil
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import evaluate
import train
from tests.callbacks.wandb_record import parts_of
from tests.forks import Fork, finish, two_ranks
from tests.tiny_faults import dies_before

ROOT = Path(train.__file__).parent
DATA = str(ROOT / "data" / "swiss_roll")
SMALL = ["--model.model.num_potential", "8", "--model.model.num_cost", "4", "--wandb", "disabled"]


def config(name="swiss_roll"):
    return ["-c", str(ROOT / "configs" / "ot_conditional" / f"{name}.yaml")]


def fit(*arguments, data=DATA):
    return train.main(["fit", *config(), "--data.path", data, *SMALL, *arguments])


def weights(checkpoint):
    return torch.load(checkpoint, weights_only=True)["state_dict"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run on the weather table, with W&B recording offline."""
    run = tmp_path_factory.mktemp("finished") / "run"
    data = ["--data.path", str(ROOT / "data" / "weather")]
    assert train.main(["fit", *config("weather"), *data, "--trainer.max_steps", "300", "--run_dir", str(run)]) == 0
    return run


def test_a_run_leaves_its_config_checkpoints_metrics_wandb_files_and_a_picture(finished):
    saved = yaml.safe_load((finished / "config.yaml").read_text())
    assert saved["trainer"]["max_steps"] == 300
    assert {p.name for p in (finished / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "last-1.ckpt"}
    assert len(parts_of(finished)) == 1
    assert (finished / "pictures" / "samples.png").read_bytes().startswith(b"\x89PNG")
    header = (finished / "logs" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "val/nll", "test/nll", "diagnostics/gauge_drift"} <= set(header)


def test_predict_without_anything_to_predict_is_one_line(finished, capsys):
    best = str(finished / "checkpoints" / "best.ckpt")
    for data, message in (
        ([], "give --data CLASS"),
        (["--data", "PairedVectorsDataModule", "--data.path", DATA], "PairedVectorsDataModule has no predict_data"),
    ):
        line = one_line(capsys, train.main(["predict", "--ckpt_path", best, *data]))
        assert line.startswith(f"error: there is nothing to predict: {message}")


@pytest.fixture(scope="module")
def report(finished):
    """That of the best and the last checkpoint, measured by one process."""
    checkpoints = [str(finished / "checkpoints" / f"{name}.ckpt") for name in ("best", "last")]
    out = finished.parent / "report"
    assert evaluate.main([*checkpoints, "--out", str(out), "--bootstrap", "50", "--devices", "1"]) == 0
    return out


def runs_of(report):
    return json.loads((report / "metrics.json").read_text())["runs"]


def test_evaluation_of_best_and_last_side_by_side(report):
    runs = runs_of(report)
    assert len(runs) == 2
    wanted = {"test/nll", "test/conditional_w2", "test/conditional_energy", "test/marginal_sw2", "test/mmd"}
    assert all(wanted <= set(run["metrics"]) for run in runs)
    assert runs[0]["metrics"]["test/nll"] < 4.0  # an untrained mixture scores 5
    low, high = runs[0]["intervals"]["test/nll"]
    assert low < runs[0]["metrics"]["test/nll"] < high
    assert "<html" in (report / "report.html").read_text().lower()


def test_two_processes_measure_what_one_measures(finished, report, folder):
    """2048 pairs and 64 groups in uneven batches of 100 rows."""
    checkpoint = str(finished / "checkpoints" / "best.ckpt")
    finish(two_ranks("evaluate", [checkpoint, "--bootstrap", "50", "--out", "2", "--devices", "2"], folder))
    values = [runs_of(out)[0]["metrics"] for out in (report, Path("2"))]
    assert values[0].keys() == values[1].keys()
    for name, value in values[0].items():
        assert values[1][name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.slow
def test_two_processes_train_what_one_trains(folder):
    """Eq. 18 averages over rows, so equal global batches give equal steps; 33 validation rows split unevenly."""
    options = ["--model.model.objective", "inverse_ot", "--model.x_noise", "0", "--trainer.max_steps", "40"]
    options += ["--data.steps_per_epoch", "20", "--data.num_pairs", "132", "--test_after_fit", "false"]
    assert fit(*options, "--run_dir", "one") == 0
    ddp = ["-c", str(ROOT / "configs" / "trainer" / "ddp.yaml"), "--trainer.devices", "2"]
    alike = ["fit", *config(), "--data.path", DATA, *SMALL, *options, "--trainer.accelerator", "cpu"]
    finish(two_ranks("train", [*alike, *ddp, "--run_dir", "two"], folder))
    for name, value in weights("one/checkpoints/last.ckpt").items():
        torch.testing.assert_close(weights("two/checkpoints/last.ckpt")[name], value, rtol=2e-4, atol=2e-5)
    curves = [
        np.genfromtxt(f"{run}/logs/metrics.csv", delimiter=",", names=True, deletechars="") for run in ("one", "two")
    ]
    nll = [curve["val/nll"][~np.isnan(curve["val/nll"])] for curve in curves]
    assert len(nll[0]) == 2
    np.testing.assert_allclose(nll[1], nll[0], rtol=1e-4)


@pytest.mark.slow
def test_sigkill_at_a_random_step_and_resume_continue_bit_for_bit(folder):
    options = ["--trainer.max_steps", "600", "--data.steps_per_epoch", "20", "--trainer.log_every_n_steps", "1"]
    options += ["--test_after_fit", "false"]
    assert fit(*options, "--run_dir", "whole") == 0
    moment = random.randrange(50, 600)
    death = ["--callbacks.death", json.dumps(dies_before(moment, folder / "died"))]
    alike = ["fit", *config(), "--data.path", DATA, *SMALL, *options]
    first = Fork("train", [*alike, "--run_dir", "killed", *death], folder / "output")
    assert first.wait() == -signal.SIGKILL, first.text()
    checkpoint, log = Path("killed/checkpoints/last.ckpt"), Path("killed/logs/metrics.csv")
    assert 0 < torch.load(checkpoint, weights_only=True)["global_step"] <= moment

    assert fit(*options, "--run_dir", "killed", "--resume", "auto") == 0
    for name, value in weights("whole/checkpoints/last.ckpt").items():
        assert torch.equal(weights("killed/checkpoints/last.ckpt")[name], value), name

    def curve(path):
        rows = np.genfromtxt(path, delimiter=",", names=True, deletechars="")
        kept = {int(row["step"]): row["train/loss"] for row in rows if not np.isnan(row["train/loss"])}
        return [kept[step] for step in sorted(kept)]

    assert len(curve("whole/logs/metrics.csv")) == 600
    assert curve(log) == curve("whole/logs/metrics.csv")


def one_line(capsys, code):
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line]
    assert code == 2
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.path", "nowhere"], "nowhere"),
        (["--data.path", "empty"], "no shards here"),
        (["--model.model.epsilon", "0"], "epsilon=0"),
        (["--model.model.epsilon", "-1"], "epsilon=-1"),
        (["--model.model.num_potentials", "3"], "num_potential"),
        (["--model.cost_lrr", "3"], "cost_lr"),
        (["--data.num_pair", "3"], "num_pairs"),
        (["--data.num_pairs", "100000"], "num_pairs=100000"),
        (["--model.model.y_dim", "3"], "y_dim=3"),
        (["--model.model.covariance", "full", "--data.num_pairs", "8"], "6 training pairs for 8 components"),
        (["--resume", "truncated.ckpt"], "truncated.ckpt"),
        (["--resume", "other.ckpt"], "holds a lightning_modules.SomethingElse"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(folder, capsys, arguments, message):
    Path("empty").mkdir()
    Path("truncated.ckpt").write_bytes(b"PK\x03\x04 cut short")
    other = {"state_dict": {}, "hyper_parameters": {"_class_path": "lightning_modules.SomethingElse"}, "epoch": 0}
    torch.save({**other, "global_step": 0, "pytorch-lightning_version": "2.6.6", "loops": {}}, "other.ckpt")
    before = sorted(folder.rglob("*"))
    assert message in one_line(capsys, fit("--run_dir", "new", *arguments))
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("fault", ["nan", "lengths"])
def test_bad_rows_are_named_before_the_first_step(folder, capsys, fault):
    copy = shutil.copytree(DATA, folder / "bad")
    corrupt(copy, fault)
    message = one_line(capsys, fit("--run_dir", "new", data=str(copy)))
    assert {"nan": "finite", "lengths": "rows"}[fault] in message
    assert "train_paired" in message
    assert not Path("new").exists()


def corrupt(folder, fault):
    """Rewrite train_paired with a NaN in every eighth row, or with one y row fewer than x rows.

    The index goes, so that the folder is scanned.
    """
    (folder / "index.json").unlink()
    shard = folder / "train_paired-000000.tar"
    with tarfile.open(shard) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar.getmembers()]
    with tarfile.open(shard, "w") as tar:
        for name, content in members:
            array = np.load(io.BytesIO(content), allow_pickle=False)
            if name.endswith(".y.npy"):
                array = (
                    array[:-1]
                    if fault == "lengths"
                    else np.where(np.arange(len(array))[:, None] % 8 == 0, np.nan, array)
                )
            buffer = io.BytesIO()
            np.save(buffer, array.astype(np.float32))
            info = tarfile.TarInfo(name)
            info.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(info, buffer)
