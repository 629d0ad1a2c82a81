"""Accuracy against a count by hand and torchmetrics, whatever the batches, and what it asks of a module."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_accuracy

from callbacks import AccuracyCallback

N, K = 61, 4


class Classifier(LightningModule):
    """Its outputs stand in the batch."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = outputs

    def validation_step(self, batch, batch_idx):
        return {name: batch[name] for name in self.outputs}

    test_step = validation_step


@pytest.fixture
def table():
    draws = torch.Generator().manual_seed(0)
    scores = torch.randn(N, K, generator=draws)
    likely = scores.argmax(1)
    noise = torch.randint(K, (N,), generator=draws)
    y = torch.where(torch.rand(N, generator=draws) < 0.5, likely, noise)[:, None].float()
    return {"class_log_prob": scores.log_softmax(1), "y": y, "nll": torch.rand(N, generator=draws)}


def batches(table, size):
    """Rows in reverse, the last batch filled up with rows of weight 0 whose labels are all right."""
    rows = torch.arange(N).flip(0)
    for part in rows.split(size):
        index = torch.cat([part, part[:1].expand(size - len(part))])
        batch = {"index": index, "weight": (torch.arange(size) < len(part)).float()}
        batch |= {name: column[index] for name, column in table.items()}
        padding = batch["weight"] == 0
        batch["y"][padding] = batch["class_log_prob"][padding].argmax(1, keepdim=True).float()
        yield batch


def measured(tmp_path, table, stage, size, *outputs):
    metric = AccuracyCallback()
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    trainer = Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, callbacks=[metric], **quiet)
    outputs = outputs or ("class_log_prob", "nll")
    loader = DataLoader(list(batches(table, size)), batch_size=None)
    run = trainer.validate if stage == "val" else trainer.test
    return run(Classifier(*outputs), loader, verbose=False)[0], metric


@pytest.mark.parametrize("size", [1, 7, 61, 64])
@pytest.mark.parametrize("stage", ["val", "test"])
def test_accuracy_is_the_count_by_hand_for_any_batches(tmp_path, table, stage, size):
    logged, metric = measured(tmp_path, table, stage, size)
    scores = table["class_log_prob"].tolist()
    right = [scores[n].index(max(scores[n])) == int(table["y"][n]) for n in range(N)]
    assert 10 < sum(right) < 50
    assert logged == {f"{stage}/accuracy": pytest.approx(sum(right) / N)}
    labels = table["y"][:, 0].long()
    theirs = multiclass_accuracy(table["class_log_prob"], labels, num_classes=K, average="micro")
    assert logged[f"{stage}/accuracy"] == pytest.approx(theirs.item())
    assert metric.rows[f"{stage}/accuracy"].tolist() == [float(one) for one in right]
    assert torch.equal(metric.rows[f"{stage}/nll"], table["nll"])
    assert metric.measured[f"{stage}/accuracy"]["num_rows"] == N


def test_intervals_enclose_the_means(tmp_path, table):
    _, metric = measured(tmp_path, table, "test", 7)
    found = metric.intervals(num_draws=200)
    assert found.keys() == {"test/accuracy", "test/nll"}
    for key, (low, high) in found.items():
        assert low < metric.rows[key].mean() < high


def test_a_module_that_gives_no_likelihood_per_row_is_measured_all_the_same(tmp_path, table):
    _, metric = measured(tmp_path, table, "test", 7, "class_log_prob")
    assert metric.rows.keys() == {"test/accuracy"}


def test_a_module_without_classes_is_refused_in_one_line(tmp_path, table):
    with pytest.raises(ValueError, match=r"^accuracy needs steps that return a dict with class_log_prob: .*$"):
        measured(tmp_path, table, "val", 7, "nll")
