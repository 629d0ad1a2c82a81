"""The module on its own: what it logs, returns and optimises. Whole runs are in tests/test_train.py."""

from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks import LossSpikes, NumericGuard, SkippedSamples, Throughput
from datamodules import PairedVectorsDataModule
from datamodules.prepare.shard_writing import Description, write_folder
from datamodules.skipped import Skipped
from fewstep.transport.discrete_transport import DiscreteTransport
from fewstep.transport.energy import EnergyTransport
from fewstep.transport.light_transport import LightTransport
from lightning_modules import OTConditionalModule


def module(**options):
    model = LightTransport(2, 2, num_potential=6, num_cost=3, slope_hidden=(8,))
    return OTConditionalModule(model, **options)


def data(**options):
    defaults = {"num_pairs": 64, "batch_size": 16, "steps_per_epoch": 5}
    return PairedVectorsDataModule("data/swiss_roll", **{**defaults, **options})


def trainer(**options):
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return L.Trainer(accelerator="cpu", max_steps=5, num_sanity_val_steps=0, **{**quiet, **options})


@pytest.fixture(scope="module")
def fitted():
    L.seed_everything(0)
    net, rows, runner = module(), data(), trainer()
    runner.fit(net, datamodule=rows)
    return net, rows, runner


def test_terms_add_up_to_the_loss_and_diagnostics_are_logged(fitted):
    metrics = fitted[2].callback_metrics
    terms = metrics["train/pair_loss"] + metrics["train/marginal_loss"]
    torch.testing.assert_close(metrics["train/loss"], terms)
    names = {"slope_max", "gauge_drift", "variance_min", "variance_max", "logit_max", "effective_components"}
    assert {k.split("/")[1] for k in metrics if k.startswith("diagnostics/")} == names


def test_val_nll_is_the_mean_over_held_out_rows(fitted):
    net, rows, runner = fitted
    columns = rows.val_columns
    with torch.no_grad():
        expected = -net.model.log_density(columns["y"], columns["x"]).mean()
    assert runner.validate(net, datamodule=rows, verbose=False)[0]["val/nll"] == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_zero_steps_between_logs_means_never():
    watches = [LossSpikes(), NumericGuard(), SkippedSamples(), Throughput()]
    runner, rows = trainer(log_every_n_steps=0, callbacks=watches), data()
    rows.skipped = Skipped()
    runner.fit(module(), datamodule=rows)
    assert runner.global_step == 5
    assert "val/nll" in runner.callback_metrics
    assert not [key for key in runner.callback_metrics if key.startswith(("train/", "data/", "throughput/"))]


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
@pytest.mark.parametrize("network", [LightTransport, partial(EnergyTransport, num_nodes=64)])
@pytest.mark.parametrize(
    ("dims", "side"), [((3, 2), "x of 2 dimensions, the model x_dim=3"), ((2, 1), "y of 2 .* y_dim=1")]
)
def test_data_of_other_dimensions_are_one_line(command, network, dims, side):
    with pytest.raises(ValueError, match=f"^the data has {side}$"):
        getattr(trainer(), command)(OTConditionalModule(network(*dims)), datamodule=data())


def test_padding_rows_do_not_count():
    net = module()
    batch = {
        "x": torch.randn(4, 2),
        "y": torch.randn(4, 2),
        "index": torch.arange(4),
        "weight": torch.tensor([1.0, 1, 1, 0]),
    }
    batch["y"][3] = 1e4
    logged = {}
    net.log_dict = lambda *_, **__: None
    net.log = lambda key, value, **options: logged.update({key: value, "rows": options["batch_size"]})
    nll = net.validation_step(batch, 0)["nll"]
    assert logged["rows"] == 3
    torch.testing.assert_close(logged["val/nll"], nll[:3].mean())


def labels(folder, **wrong):
    """Vector shards with labels 0, 1, 2 of 5,000 unpaired y; wrong: the last label of a split."""
    splits = {}
    for name, count in (("train_paired", 8), ("train_x", 8), ("train_y", 5000), ("val", 4), ("test", 4)):
        y = np.arange(count, dtype=np.float32)[:, None] % 3
        y[-1] = wrong.get(name, y[-1])
        columns = {"x": np.zeros((count, 2), np.float32), "y": y}
        splits[name] = {side: column for side, column in columns.items() if name != f"train_{'yx'[side == 'y']}"}
    write_folder(str(folder), splits, Description("labels", "CC0-1.0", "none"))
    return PairedVectorsDataModule(folder, num_pairs=12, val_fraction=1 / 3, batch_size=4, steps_per_epoch=5)


@pytest.mark.parametrize(("split", "label"), [("train_paired", 3.0), ("train_y", 1.5), ("train_y", -1.0)])
def test_one_wrong_label_among_thousands_is_named_before_the_first_step(tmp_path, split, label):
    net, rows, runner = (
        OTConditionalModule(DiscreteTransport(2, 3)),
        labels(tmp_path / "a", **{split: label}),
        trainer(),
    )
    with pytest.raises(ValueError, match=f"^label {label:g} is none of the 3 classes"):
        runner.fit(net, datamodule=rows)
    assert runner.global_step == 0


@pytest.mark.parametrize("objective", ["marginal", "inverse_ot"])
def test_steps_of_a_model_of_labels_return_the_classes_log_probabilities(tmp_path, objective):
    net, rows, runner = (
        OTConditionalModule(DiscreteTransport(2, 3, (), objective=objective)),
        labels(tmp_path / "a"),
        trainer(),
    )
    runner.fit(net, datamodule=rows)
    batch = next(iter(rows.val_dataloader()))
    net.log = net.log_dict = lambda *_, **__: None
    with torch.no_grad():
        validated, tested = net.validation_step(batch, 1), net.test_step(batch, 0)
        expected = net.model.class_log_prob(batch["x"])
    for outputs in (validated, tested):
        torch.testing.assert_close(outputs["class_log_prob"], expected)
        torch.testing.assert_close(outputs["nll"], -expected[torch.arange(4), batch["y"][:, 0].long()])
    assert tested["sample"].shape == batch["y"].shape
    assert validated.keys() == {"nll", "class_log_prob"}


def test_test_step_returns_rows_in_order_and_the_same_samples_for_any_batch_size(fitted):
    net, rows, _ = fitted
    rows.setup("test")
    outputs = []
    for size in (512, 100):
        rows.hparams.eval_batch_size = size
        loaders = rows.test_dataloader()
        net.log = lambda *_, **__: None
        with torch.no_grad():
            pairs = [net.test_step(batch, 0, 0) for batch in loaders[0]]
            probes = [net.test_step(batch, 0, 1) for batch in loaders[1]]
        outputs.append([torch.cat([p["sample"] for p in part]) for part in (pairs, probes)])
    rows.hparams.eval_batch_size = 512
    del net.log
    torch.testing.assert_close(outputs[0][0], outputs[1][0])
    torch.testing.assert_close(outputs[0][1], outputs[1][1])
    assert outputs[0][1].shape == (67, 256, 2)
    assert outputs[0][1].std(dim=1).min() > 0  # one draw per row of a group, not one for the group


def test_two_learning_rates_reach_disjoint_parameters():
    net = module(cost_lr=1e-3, potential_lr=1e-2, cost_weight_decay=0.1)
    groups = net.configure_optimizers().param_groups
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(1e-3, 0.1), (1e-2, 0.0)]
    slopes = {id(p) for p in net.model.slope_net.parameters()}
    assert slopes <= {id(p) for p in groups[0]["params"]}
    assert id(net.model.center) in {id(p) for p in groups[1]["params"]}
    assert sum(len(g["params"]) for g in groups) == len(list(net.parameters()))


def test_cosine_schedule_ends_at_zero():
    net, rows, runner = module(schedule="cosine"), data(), trainer()
    runner.fit(net, datamodule=rows)
    assert [g["lr"] for g in runner.optimizers[0].param_groups] == pytest.approx([0, 0], abs=1e-12)


def test_x_noise_blurs_paired_conditions_only():
    net = module(x_noise=0.5)
    seen = {}
    net.model.losses = lambda batch: seen.update(batch) or {"pair": batch["x"].sum() * 0}
    net.trainer = trainer()
    net.log = net.log_dict = lambda *_, **__: None
    batch = {name: torch.zeros(4096, 2) for name in ("x", "y", "x_unpaired", "y_unpaired")}
    net.training_step(batch, 0)
    assert seen["x"].std().item() == pytest.approx(0.5, rel=0.05)
    assert all(seen[name].abs().max() == 0 for name in ("y", "x_unpaired", "y_unpaired"))
    assert batch["x"].abs().max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost_lr": 0.0}, "cost_lr=0.0"),
        ({"potential_lr": -1.0}, "potential_lr"),
        ({"schedule": "step"}, "constant, cosine"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        module(**options)


@pytest.mark.learns
def test_a_conditional_gaussian_is_learned_to_its_entropy(below):
    """Closed form: y = A x + 0.3 e has the NLL of N(A x, 0.09), taken over the same rows, whose noise cancels."""
    x, x_unpaired, x_marginal = torch.randn(512, 2), torch.randn(2048, 2), torch.randn(2048, 2)
    mix = torch.tensor([[1.0, 0.5], [-0.5, 1.0]])
    y, y_unpaired = x @ mix + 0.3 * torch.randn(512, 2), x_marginal @ mix + 0.3 * torch.randn(2048, 2)
    model = LightTransport(
        2,
        2,
        num_potential=1,
        num_cost=1,
        slope_hidden=(),
        covariance="full",
        initial_variance=0.5,
        slope_units="target",
    )
    model.initialise(x_unpaired, y_unpaired)
    net = OTConditionalModule(model, cost_lr=2e-2, potential_lr=2e-2, schedule="cosine")
    net.setup = lambda stage: None
    batches = [{"x": x, "y": y, "x_unpaired": x_unpaired[:256], "y_unpaired": y_unpaired[:256]}] * 600
    runner = trainer()
    runner.fit_loop.epoch_loop.max_steps = 600
    runner.fit(net, DataLoader(batches, batch_size=None))
    test_x = torch.randn(4096, 2)
    test_y = test_x @ mix + 0.3 * torch.randn(4096, 2)
    with torch.no_grad():
        nll = -net.model.log_density(test_y, test_x).mean().item()
    least = -torch.distributions.Normal(test_x @ mix, 0.3).log_prob(test_y).sum(1).mean().item()
    below("nll above the true one", nll - least, 0.08)
    below("nll below the true one", least - nll, 0.05)
