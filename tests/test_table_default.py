"""configs/ot_conditional/table.yaml under the ordinary trainer: it adds to its start, resumes, and tells what it is."""

import json
from pathlib import Path

import pytest
import torch

import fewstep.transport
import train
from datamodules import PairedVectorsDataModule
from fewstep.transport import gaussian

ROOT = Path(train.__file__).parent
QUIET = [
    "--trainer.accelerator",
    "cpu",
    "--wandb",
    "disabled",
    "--callbacks.metrics",
    "null",
    "--callbacks.picture",
    "null",
]
FEW = ["--data.num_pairs", "128", "--data.num_unpaired_x", "1024", "--data.num_unpaired_y", "1024"]


def fit(folder, data, steps, *more):
    given = ["fit", "-c", str(ROOT / "configs/ot_conditional/table.yaml"), "--data.path", str(ROOT / "data" / data)]
    assert train.main([*given, "--run_dir", str(folder), "--trainer.max_steps", str(steps), *FEW, *QUIET, *more]) == 0
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def roll(tmp_path_factory):
    folder = tmp_path_factory.mktemp("default") / "roll"
    return folder, fit(folder, "swiss_roll", 200)


def test_training_adds_to_the_joint_gaussian(roll):
    """The spiral is no line: test NLL of the joint Gaussian is 2.68."""
    folder, checkpoint = roll
    data = PairedVectorsDataModule(str(ROOT / "data/swiss_roll"))
    pairs = data.test_columns[0]
    nll = -fewstep.transport.load(folder).network.log_density(pairs["y"], pairs["x"]).mean()
    assert nll < 2.0
    best = checkpoint["state_dict"]["model.best"]
    assert best[2:].min() < best[:2].min() - 0.3


def test_where_the_relation_is_nearly_linear_it_is_no_worse_than_the_closed_forms(tmp_path):
    """128 weather pairs, whose joint Gaussian and ridge regression are at 2.39 to 2.47 nats over seeds."""
    fit(tmp_path / "weather", "weather", 100, "--test_after_fit", "false")
    data = PairedVectorsDataModule(str(ROOT / "data/weather"), 128, num_unpaired_x=1024, num_unpaired_y=1024)
    pairs, tables, val = data.test_columns[0], data.reference(None), data.val_columns
    x, y = (torch.cat([tables[side], val[side]]) for side in "xy")
    closed = gaussian.fit_joint(x, y, tables["x_unpaired"], tables["y_unpaired"]), gaussian.fit_ridge(x, y)
    best = min(-model.log_density(pairs["y"], pairs["x"]).mean() for model in closed)
    units = fewstep.transport.load(tmp_path / "weather")
    nll = -units.network.log_density(pairs["y"], pairs["x"]).mean()
    print(f"weather {nll:.3f} closed {best:.3f}", units.network.log_weight.exp())
    assert nll < best + 0.02


def test_val_nll_is_what_left_out_pairs_say(roll):
    checkpoint = roll[1]["state_dict"]
    assert checkpoint["model.log_weight"].exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert checkpoint["model.held_out_nll"] < checkpoint["model.best"].min() + 0.1


def test_validation_of_a_checkpoint_tells_the_same(roll, capsys):
    """Its validation pairs were trained on, so that their own likelihood would flatter."""
    given = ["validate", "-c", str(ROOT / "configs/ot_conditional/table.yaml")]
    given += ["--data.path", str(ROOT / "data/swiss_roll"), "--ckpt_path", str(roll[0] / "checkpoints/best.ckpt")]
    capsys.readouterr()
    assert train.main([*given, *FEW, *QUIET, "--run_dir", str(roll[0].parent / "validated")]) == 0
    best = torch.load(roll[0] / "checkpoints/best.ckpt", weights_only=True)["state_dict"]["model.held_out_nll"]
    assert f"{best:.3f}"[:5] in capsys.readouterr().out


def test_a_run_that_stops_goes_on_as_if_it_had_not(tmp_path):
    stop = ["--data.steps_per_epoch", "10", "--test_after_fit", "false", "--model.schedule", "constant"]
    whole = fit(tmp_path / "whole", "weather", 20, *stop)
    fit(tmp_path / "parts", "weather", 10, *stop)
    parts = fit(tmp_path / "parts", "weather", 20, *stop, "--resume", "auto")
    for name, value in whole["state_dict"].items():
        torch.testing.assert_close(parts["state_dict"][name], value, rtol=0, atol=0, msg=name)


def test_too_few_pairs_are_one_line(tmp_path, capsys):
    given = ["fit", "-c", str(ROOT / "configs/ot_conditional/table.yaml"), "--data.path", str(ROOT / "data/swiss_roll")]
    more = ["--data.num_pairs", "1", "--data.val_fraction", "0", "--run_dir", str(tmp_path / "one")]
    assert train.main([*given, *more, *QUIET]) == 2
    error = capsys.readouterr().err
    assert "1 pairs cannot be judged without one another; give at least 8" in error
    assert error.strip().count("\n") == 0


def test_the_export_of_a_run_answers(roll):
    described = json.loads((roll[0] / "export" / "transport.json").read_text())
    assert described["network"] == "StackedTransport"
    x = [[0.0, 0.5]]
    run, export = (fewstep.transport.load(roll[0] / place) for place in (".", "export"))
    torch.testing.assert_close(run.quantiles(x, [0.1, 0.9]), export.quantiles(x, [0.1, 0.9]), rtol=0.2, atol=0.2)
