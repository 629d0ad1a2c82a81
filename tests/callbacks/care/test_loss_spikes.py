"""Loss spikes: found where they are, with their keys, and not where there are none."""

import json
from pathlib import Path

import pytest
import torch
from scipy import stats

from callbacks import LossSpikes
from callbacks.care.loss_spikes import robust_deviations
from tests.callbacks.faulty_run import KeyedData, trainer_with
from tests.callbacks.tiny_run import TinyModule


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Spiking(TinyModule):
    """The loss of these batches, counted from 0 over the run, is 300 times what it should be, or NaN."""

    def __init__(self, spikes: tuple[int, ...], manual: bool = False, factor: float = 300.0) -> None:
        super().__init__(lr=1e-4)
        self.automatic_optimization, self.spikes, self.factor, self.count = not manual, spikes, factor, 0

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch) * (self.factor if self.count in self.spikes else 1.0)
        self.count += 1
        if self.automatic_optimization:
            return loss
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return None


def lines() -> list[dict]:
    return [json.loads(line) for line in Path("logs/bad_batches.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("manual", [False, True])
def test_spikes_are_counted_recorded_and_told_of_now_and_then(capsys, manual):
    watch = LossSpikes(window=60, block=20)
    trainer_with(watch, max_steps=150).fit(Spiking((95, 123), manual), KeyedData())
    assert watch.spikes == 2
    assert [(line["step"], line["batches"][0]["index"]) for line in lines()] == [(96, 5), (124, 3)]
    assert lines()[0]["batches"][0]["keys"][:2] == ["5-0", "5-1"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1  # the second comes less than 500 steps later
    assert said[0].startswith("loss spike at step 96: ")
    assert "keys 5-0, 5-1, 5-2 and 13 more; 1 so far" in said[0]


def test_no_alarm_without_a_spike_nor_for_a_loss_that_is_not_finite():
    watch = LossSpikes(window=60, block=20)
    trainer_with(watch, max_steps=150).fit(Spiking((149,), factor=float("nan")), KeyedData())
    assert watch.spikes == 0
    assert not Path("logs").exists()


def test_nothing_is_fetched_between_blocks():
    """One transfer per block: the losses are looked at nowhere else."""
    watch = LossSpikes(block=50)
    looked = []
    inspect = watch._inspect
    watch._inspect = lambda trainer: looked.append(trainer.global_step) or inspect(trainer)
    trainer_with(watch, max_steps=120).fit(Spiking(()), KeyedData())
    assert looked == [50, 100, 120]


def test_deviations_are_those_of_scipy():
    generator = torch.Generator().manual_seed(0)
    history = torch.randn(201, generator=generator, dtype=torch.float64).exp()
    values = torch.tensor([0.1, 1.0, 50.0], dtype=torch.float64)
    scale = stats.median_abs_deviation(history.numpy(), scale="normal")
    expected = (values - float(history.median())) / scale
    torch.testing.assert_close(robust_deviations(values, history), expected, rtol=1e-4, atol=0)


def test_a_constant_history_has_a_scale():
    deviations = robust_deviations(torch.tensor([2.0, 2.001, 4.0]), torch.full((10,), 2.0))
    torch.testing.assert_close(deviations, torch.tensor([0.0, 0.5, 1000.0]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("bad", [{"threshold": 0.0}, {"window": 1}, {"block": 0}, {"report_every_n_steps": 0}])
def test_bad_arguments_are_named(bad):
    name, value = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        LossSpikes(**bad)
