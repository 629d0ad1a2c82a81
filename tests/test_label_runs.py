"""Classes of Fashion-MNIST as a user learns them: idx files to vectors, a run, its evaluation, a resume, bad labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
import train
from datamodules import PairedVectorsDataModule
from datamodules.prepare.__main__ import main as prepare
from fewstep.transport.discrete_transport import DiscreteTransport
from tests.test_runs import one_line, weights

CONFIG = Path(train.__file__).parent / "configs" / "ot_conditional" / "fashion_mnist.yaml"
ROWS = {"data.num_pairs": 24, "data.num_unpaired_x": "null", "data.batch_size": 8, "data.steps_per_epoch": 4}
QUIET = {"model.model.hidden": "[8]", "model.schedule": "constant", "wandb": "disabled", "trainer.max_steps": 8}
QUIET["trainer.log_every_n_steps"] = 1


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """A shard folder, by the command of the config's header, from plain idx files."""
    folder, rng = tmp_path_factory.mktemp("labels"), np.random.default_rng(0)
    for name, count in (("train", 120), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = np.clip(20 * labels[:, None, None] + rng.integers(0, 40, (count, 28, 28)), 0, 255).astype(np.uint8)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    command = next(line for line in CONFIG.read_text().splitlines() if "datamodules.prepare fashion_mnist" in line)
    words = command.split("datamodules.prepare")[1].split()
    assert words[:4] == ["fashion_mnist", "--vectors", "--out", "data/fashion_mnist"]
    assert prepare([*words[:3], str(folder / "shards"), "--idx", str(folder)]) == 0
    return folder / "shards"


def fit(vectors, run, *arguments, **changes):
    options = {**ROWS, **QUIET, "data.path": vectors, "run_dir": run}
    options |= {name.replace("__", "."): value for name, value in changes.items()}
    return train.main(["fit", "-c", str(CONFIG), *(f"--{k}={v}" for k, v in options.items()), *arguments])


@pytest.fixture(scope="module")
def finished(vectors, tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    assert fit(vectors, run) == 0
    return run


def test_a_run_logs_likelihood_and_accuracy_and_no_scatter_of_labels(finished):
    header = (finished / "logs" / "metrics.csv").read_text().splitlines()[0].split(",")
    wanted = {"val/nll", "val/accuracy", "test/nll", "test/accuracy", "train/pair_loss", "train/marginal_loss"}
    assert wanted | {"diagnostics/entropy", "diagnostics/cost_max"} <= set(header)
    assert not (finished / "pictures").exists()


def test_evaluation_gives_the_accuracy_of_the_checkpoint_and_no_distances_between_labels(finished, vectors, tmp_path):
    checkpoint = finished / "checkpoints" / "last.ckpt"
    assert evaluate.main([str(checkpoint), "--out", str(tmp_path / "report"), "--bootstrap", "50"]) == 0
    (run,) = json.loads((tmp_path / "report" / "metrics.json").read_text())["runs"]
    assert run["metrics"].keys() == run["intervals"].keys() == {"test/nll", "test/accuracy"}
    model = DiscreteTransport(784, 10, hidden=(8,))
    averaged = torch.load(checkpoint, weights_only=True)["callbacks"]["EMA"]["average"]
    model.load_state_dict({name.removeprefix("model."): value for name, value in averaged.items()})
    pairs = PairedVectorsDataModule(vectors, num_pairs=24).test_columns[0]
    cost = model.net(pairs["x"])
    right = ((model.potential - cost).argmax(1) == pairs["y"][:, 0]).float().mean().item()
    assert run["metrics"]["test/accuracy"] == pytest.approx(right)
    assert evaluate.main([str(checkpoint), "--out", str(tmp_path / "named"), "--metrics", "accuracy"]) == 0
    (named,) = json.loads((tmp_path / "named" / "metrics.json").read_text())["runs"]
    assert named["metrics"]["test/accuracy"] == run["metrics"]["test/accuracy"]


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_interrupted(finished, vectors, tmp_path):
    assert fit(vectors, tmp_path / "run", trainer__max_steps=4) == 0
    assert fit(vectors, tmp_path / "run", "--resume", "auto") == 0
    for name, value in weights(finished / "checkpoints" / "last.ckpt").items():
        assert torch.equal(weights(tmp_path / "run" / "checkpoints" / "last.ckpt")[name], value), name


def test_the_shipped_config_is_rehearsed_with_both_objectives(vectors, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = ["--data.path", str(vectors), "--data.num_pairs", "24", "--data.num_unpaired_x", "null"]
    for objective in ("marginal", "inverse_ot"):
        arguments = ["fit", "-c", str(CONFIG), *rows, "--model.model.objective", objective, "--dry_run"]
        assert train.main(arguments) == 0, capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model__model__num_classes": 9}, "label 9 is none of the 9 classes"),
        ({"model__model__x_dim": 1024}, "x_dim=1024"),
        ({"model__model__epsilon": ".inf"}, "epsilon=inf: must be positive and finite"),
        ({"model__model__epsilon": ".nan"}, "model.model.epsilon=nan: is not a number; give one"),
        ({"model__model__hidden": "[8,0]"}, "hidden=[8, 0]: every width must be at least 1"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing_behind(vectors, tmp_path, capsys, change, message):
    assert message in one_line(capsys, fit(vectors, tmp_path / "run", **change))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_label_of_the_validation_pairs_is_found_before_training(vectors, tmp_path, capsys, monkeypatch):
    columns = {"x": torch.zeros(6, 784), "y": torch.tensor([[0.0], [1.0], [10.0], [2.0], [3.0], [4.0]])}
    monkeypatch.setattr(PairedVectorsDataModule, "val_columns", columns)
    assert "label 10 is none of the 10 classes" in one_line(capsys, fit(vectors, tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_distances_between_labels_are_refused(finished, tmp_path, capsys):
    checkpoint = str(finished / "checkpoints" / "last.ckpt")
    code = evaluate.main([checkpoint, "--out", str(tmp_path / "report"), "--metrics", "transport"])
    assert "mean nothing; measure `accuracy` of labels" in one_line(capsys, code)
