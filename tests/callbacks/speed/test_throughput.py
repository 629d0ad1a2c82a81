"""Throughput: counted FLOPs against a closed form, times against a clock of our own, waits against a slow loader."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ThroughputMonitor

from callbacks import Throughput
from callbacks.speed import step_clock
from callbacks.speed.flop_count import FlopCount
from callbacks.speed.step_clock import StepClock
from callbacks.speed.throughput import number_format, rows_of
from tests.callbacks.faulty_run import FaultyModule, KeyedData, trainer_with
from tests.callbacks.tiny_run import FixedBatches, TinyNet


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_flops_of_a_step_are_those_of_its_matrix_products():
    """Linear 2 -> 4 -> 1 on B rows: 2 B (8 + 4) forward, as much for the weights, 2 B 4 for the hidden units."""
    meter = Throughput(peak_flops=1e9)
    trainer_with(meter, log_every_n_steps=5).fit(FaultyModule(), KeyedData())
    assert meter._flops_per_row == 2 * 12 + 2 * 12 + 2 * 4
    expected = meter._flops_per_row * meter.latest["samples_per_second"] / 1e9
    assert meter.latest["mfu"] == pytest.approx(expected)


def test_accumulated_batches_count_each_and_their_steps_once():
    meter = Throughput(peak_flops=1e9)
    settings = {"accumulate_grad_batches": 2, "max_steps": 5, "log_every_n_steps": 1}
    trainer_with(meter, **settings).fit(FaultyModule(), KeyedData())
    assert meter._flops_per_row == 56
    values = meter.latest
    assert values["samples_per_second"] * values["step_seconds"] == pytest.approx(2 * 16)


def test_compiled_modules_have_no_mfu(capsys, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)  # the compiler itself takes 20 s
    net = TinyNet()
    assert FlopCount.countable(net)
    net.compile()
    assert not FlopCount.countable(net)
    module = FaultyModule()
    module.net = LikeCompiled(module.net)
    meter = Throughput(peak_flops=1e9)
    trainer_with(meter, log_every_n_steps=2).fit(module, KeyedData())
    assert "mfu" not in meter.latest
    assert capsys.readouterr().err == "throughput: no MFU for compiled modules, whose FLOPs cannot be counted\n"


class LikeCompiled(torch.nn.Module):
    """What torch.compile returns, as far as the counter looks, and without a compiler."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self._orig_mod = net

    def __getattr__(self, name: str):
        return super().__getattr__(name) if name == "_orig_mod" else getattr(self._orig_mod, name)

    def forward(self, x):
        return self._orig_mod(x)


def test_the_clock_adds_up_steps_and_gaps_without_interruptions(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(step_clock.time, "perf_counter", lambda: now[0])
    clock = StepClock(torch.device("cpu"))

    def after(seconds, action):
        now[0] += seconds
        action()

    after(0, clock.gap_starts)
    after(3, clock.batch_starts)  # waited 3
    after(10, clock.batch_ends)
    after(2, clock.batch_starts)  # waited 2
    after(10, clock.batch_ends)
    after(1, clock.interrupt)  # a validation
    after(500, clock.batch_starts)
    after(10, clock.batch_ends)
    spent = clock.take()
    assert (spent.seconds, spent.waiting) == (35, 5)
    after(4, clock.batch_starts)
    spent = clock.take()
    assert (spent.seconds, spent.waiting) == (4, 4)


class SlowData(KeyedData):
    """A loader that takes its time: a second of `now`."""

    def train_dataloader(self):
        batches = super().train_dataloader()
        return type("Slow", (FixedBatches,), {"__iter__": lambda own: map(self.slowly, own.batches)})(batches)

    def slowly(self, batch):
        self.now[0] += 1
        return batch


class SlowModule(FaultyModule):
    """A step that takes its time: a second of `now`."""

    def training_step(self, batch, batch_idx):
        self.now[0] += 1
        return super().training_step(batch, batch_idx)


def test_waiting_for_data_is_told_from_computing(monkeypatch):
    SlowData.now = SlowModule.now = now = [0.0]
    monkeypatch.setattr(step_clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    for module, data, wait in ((FaultyModule(), SlowData(), 1), (SlowModule(), KeyedData(), 0)):
        meter = Throughput(peak_flops=1e9)
        trainer_with(meter, log_every_n_steps=10).fit(module, data)
        assert (meter.latest["data_wait"], meter.latest["step_seconds"]) == (wait, 1)


def test_a_run_logs_it_and_says_it_at_the_end(fit, capfd):
    assert fit("--run_dir", "run", "--trainer.log_every_n_steps", "5") == 0
    with Path("run/logs/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["throughput/samples_per_second"]]
    assert [int(row["step"]) for row in rows] == [4, 9, 14, 19]
    for row in rows:
        assert 0 <= float(row["throughput/data_wait"]) <= 1
        assert not row.get("throughput/mfu")  # a CPU's peak is not known
        assert float(row["throughput/memory_gb"]) > 0.05
        product = float(row["throughput/samples_per_second"]) * float(row["throughput/step_seconds"])
        assert product == pytest.approx(16, rel=1e-4)
    said = capfd.readouterr()
    assert "profiler" not in said.err.lower()  # the profiler's own messages come from below Python
    spoken = [line for line in said.out.splitlines() if line.startswith("speed   ")]
    assert len(spoken) == 1
    assert "samples/s  data " in spoken[0]


def test_why_not_lightnings_monitor():
    """It asks the module for the FLOPs, at every batch, and logs none without them."""
    monitor = ThroughputMonitor(batch_size_fn=rows_of, window_size=2)
    with pytest.warns(UserWarning, match="you need to define a `flops_per_batch`"):
        trainer_with(monitor, log_every_n_steps=1).fit(FaultyModule(), KeyedData())


@pytest.mark.parametrize(
    ("batch", "rows"),
    [
        ({"caption": ["a", "b", "c"], "image": torch.zeros(3, 3, 8, 8)}, 3),
        ({"x": torch.zeros(5, 2), "x_unpaired": torch.zeros(9, 2)}, 5),
        ({"other": torch.zeros(4)}, 4),
        (torch.zeros(6, 2), 6),
        ([torch.zeros(7, 2), torch.zeros(7)], 7),
        ({}, 0),
        (None, 0),
    ],
)
def test_rows(batch, rows):
    assert rows_of(batch) == rows


@pytest.mark.parametrize(
    ("precision", "name"),
    [("bf16-mixed", "bfloat16"), ("16-mixed", "float16"), ("64-true", "float64"), ("32-true", "float32")],
)
def test_number_formats(precision, name):
    assert number_format(precision) == name


def test_float32_products_may_be_tfloat32(monkeypatch):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert number_format("32-true") == "tfloat32"


def test_an_unknown_device_is_said_once_and_can_be_given(monkeypatch, capsys):
    monkeypatch.setattr("callbacks.speed.throughput.device_name", lambda trainer: "NVIDIA X1")
    gpu = SimpleNamespace(root_device=SimpleNamespace(type="cuda"))
    trainer = SimpleNamespace(strategy=gpu, precision="32-true", is_global_zero=True)
    assert Throughput()._find_peak(trainer, FaultyModule()) is None
    told = (
        "throughput: no MFU for NVIDIA X1 in float32: its peak is not known; give --callbacks.throughput.peak_flops\n"
    )
    assert capsys.readouterr().err == told
    assert Throughput(peak_flops=3e12)._find_peak(trainer, FaultyModule()) == 3e12
    assert capsys.readouterr().err == ""


def test_a_cpu_has_no_mfu_unless_its_peak_is_given(capsys):
    """Its peak cannot be measured beside other work: a product of [768, 768] took twice the time of a convolution."""
    meter = Throughput()
    trainer_with(meter, log_every_n_steps=2).fit(FaultyModule(), KeyedData())
    assert "mfu" not in meter.latest
    assert "MFU" not in meter.line()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("mfu", "said"), [(1.3, "130"), (0.998, "100"), (0.412, "41"), (0.0996, "10"), (4e-6, "0.0")])
def test_a_share_is_said_without_an_exponent(mfu, said):
    line = Throughput().line({"samples_per_second": 312.4, "data_wait": 0.031, "mfu": mfu})
    assert line == f"312 samples/s  data 3 %  MFU {said} %"


def test_a_bad_peak_is_named():
    with pytest.raises(ValueError, match="peak_flops=0"):
        Throughput(peak_flops=0)


def test_other_stages_do_not_need_it():
    meter = Throughput()
    meter.on_validation_start(SimpleNamespace(), None)
    assert meter.line() == ""
