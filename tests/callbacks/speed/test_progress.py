"""Progress lines: what they say, when they are printed, and that nothing is fetched in between."""

import math
from types import SimpleNamespace

import pytest
from lightning.pytorch import Trainer

from callbacks import Throughput
from callbacks.speed import progress
from callbacks.speed.progress import Progress, clock, plainly, total_steps, training_details


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (116, "1:56"), (7389, "2:03:09")])
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("max_steps", "max_epochs", "batches", "accumulate", "expected"),
    [(100, 1000, 40, 1, 100), (-1, 3, 40, 1, 120), (-1, 3, 40, 3, 42), (-1, -1, 40, 1, math.inf), (500, 2, 40, 1, 80)],
)
def test_total_steps(max_steps, max_epochs, batches, accumulate, expected):
    trainer = SimpleNamespace(
        max_steps=max_steps, max_epochs=max_epochs, num_training_batches=batches, accumulate_grad_batches=accumulate
    )
    assert total_steps(trainer) == expected


def test_lines_come_every_few_seconds_with_rate_and_time_left(monkeypatch, capsys):
    """A clock that advances 0.5 s per reading, 1 s after the 60th, stands in for the real one."""
    times = [0.0]

    def read() -> float:
        times.append(times[-1] + (0.5 if len(times) < 60 else 1.0))
        return times[-1]

    monkeypatch.setattr(progress.time, "monotonic", read)
    fetched = []
    monkeypatch.setattr(progress, "training_details", lambda trainer: fetched.append(1) or "train/loss 0.5  ")
    trainer = SimpleNamespace(
        max_steps=100, max_epochs=-1, num_training_batches=100, accumulate_grad_batches=1, global_step=0
    )
    bar = Progress(every_seconds=10)
    bar.on_train_start(trainer, None)
    for step in range(1, 101):
        trainer.global_step = step
        bar.on_train_batch_end(trainer, None)
    bar.on_train_end(trainer, None)
    lines = capsys.readouterr().out.splitlines()
    # 20 readings make 10 s, and printing reads the clock once more: 20 steps in 10.5 s
    assert lines[0] == "step 20/100  train/loss 0.5  1.9 it/s  ETA 0:42"
    # the last 10 steps took 11 s, all 78 took about 52 s: the rate is that of now, the time left that of the whole run
    assert lines[4] == "step 78/100  train/loss 0.5  0.9 it/s  ETA 0:15"
    assert lines[-1].startswith("step 100/100  train/loss 0.5  ")
    assert len(lines) == len(fetched)


def test_the_line_says_what_was_logged_last_and_how_fast_it_is():
    meter = Throughput()
    trainer = SimpleNamespace(current_epoch=3, callback_metrics={"train/loss": 0.5, "val/nll": 2.0}, callbacks=[meter])
    assert training_details(trainer) == "epoch 3  train/loss 0.5  val/nll 2  "
    meter.latest, meter.unit = {"samples_per_second": 312.4, "data_wait": 0.031, "mfu": 0.412}, "img"
    assert training_details(trainer).endswith("val/nll 2  312 img/s  data 3 %  MFU 41 %  ")


def test_numbers_have_no_exponents():
    written = {12345.6: "12350", 0.00001234567: "0.00001235", 2.0: "2", -0.5: "-0.5", float("nan"): "nan"}
    assert {value: plainly(value) for value in written} == written
    metrics = {"train/loss": 1234567.0}
    trainer = SimpleNamespace(current_epoch=0, callback_metrics=metrics, callbacks=[])
    assert training_details(trainer) == "epoch 0  train/loss 1235000  "


def test_other_ranks_are_silent(capsys):
    trainer = SimpleNamespace(global_step=0)
    bar = Progress()
    bar.disable()
    bar.on_train_start(trainer, None)
    bar.on_train_batch_end(trainer, None)
    bar.on_train_end(trainer, None)
    assert capsys.readouterr().out == ""


def test_a_terminal_shows_a_bar_and_keeps_only_the_last_line(fit, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this as a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(Progress, "_due", lambda self: self._enabled)
    assert fit("--run_dir", "run") == 0
    out = capsys.readouterr().out
    assert "━" in out
    assert out.count("took") == 1


def test_a_bad_interval_is_named():
    with pytest.raises(ValueError, match="every_seconds=0"):
        Progress(every_seconds=0)


def test_lightning_accepts_it_as_the_only_bar():
    trainer = Trainer(callbacks=[Progress()], logger=False, enable_checkpointing=False, accelerator="cpu")
    assert isinstance(trainer.progress_bar_callback, Progress)
