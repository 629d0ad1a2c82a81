"""Numbers that are not finite: the step is skipped whole, counted and told of, on all ranks alike."""

import json
import time
from pathlib import Path

import pytest
import torch
from lightning.fabric.utilities.spike import TrainingSpikeException
from lightning.pytorch.callbacks import SpikeDetection
from lightning.pytorch.plugins import MixedPrecision

from callbacks import EMA, NumericGuard
from callbacks.care import step_skipping
from callbacks.care.numeric_guard import NonFiniteError
from tests.callbacks.faulty_run import FaultyModule, KeyedData, ManualModule, bare_loop, trainer_with
from tests.patience import PATIENCE

FAULTS = ["nan", "gradient", "constant"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def lines() -> list[dict]:
    return [json.loads(line) for line in Path("logs/bad_batches.jsonl").read_text().splitlines()]


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach() for p in module.parameters()]


@pytest.mark.parametrize("kind", [FaultyModule, ManualModule])
@pytest.mark.parametrize("fault", [None, *FAULTS])
@pytest.mark.parametrize("on_device", [False, True])
def test_a_run_equals_a_bare_loop_that_leaves_these_steps_out(kind, fault, on_device, monkeypatch):
    """Weights, and with them moments, step counts, weight decay and schedule, bit for bit; also by the fused kernels,
    which decide on the device. Without a fault the guard changes nothing."""
    if on_device:
        monkeypatch.setattr(step_skipping, "can_skip_on_device", lambda optimizer: True)
    faults = {3: fault, 7: fault} if fault else {}
    guard, ema, module = NumericGuard(), EMA(), kind(faults, fused=on_device)
    data = KeyedData()
    trainer = trainer_with(guard, ema)
    trainer.fit(module, data)
    expected = bare_loop(kind(faults, fused=on_device), data)
    assert all(torch.equal(a, b) for a, b in zip(weights(module), expected, strict=True))
    assert (guard.skipped, guard.steps, trainer.global_step, ema.num_updates) == (len(faults), 10, 10, 10)
    assert all(a.isfinite().all() for a in ema.average.values())


@pytest.mark.parametrize("fault", FAULTS)
def test_with_accumulation_and_clipping_the_whole_step_is_skipped(fault):
    guard, module, data = NumericGuard(), FaultyModule({3: fault}), KeyedData()
    trainer_with(guard, accumulate_grad_batches=2, gradient_clip_val=0.1, max_steps=5).fit(module, data)
    expected = bare_loop(FaultyModule({3: fault}), data, accumulate=2, clip=0.1)
    assert all(torch.equal(a, b) for a, b in zip(weights(module), expected, strict=True))
    assert (guard.skipped, guard.steps) == (1, 5)
    assert [batch["index"] for batch in lines()[0]["batches"]] == [2, 3]


def test_the_record_names_step_losses_terms_and_keys(capsys):
    trainer_with(NumericGuard()).fit(FaultyModule({3: "nan"}), KeyedData())
    entry = lines()[0]
    assert (entry["step"], entry["epoch"], entry["loss"], entry["terms"]) == (
        4,
        0,
        ["nan"],
        {"train/squared_loss": "nan"},
    )
    assert entry["batches"] == [{"index": 3, "keys": [f"3-{row}" for row in range(16)]}]
    first, last = capsys.readouterr().err.strip().splitlines()
    assert first.startswith("step 4 skipped: loss or gradient not finite, keys 3-0, 3-1, 3-2 and 13 more, see ")
    assert last == "1 of 10 steps were skipped"


def test_a_run_of_skipped_steps_stops_with_one_line_and_the_count_survives_a_resume():
    module, guard = FaultyModule(every=1), NumericGuard(max_in_a_row=3)
    with pytest.raises(NonFiniteError) as caught:
        trainer_with(guard).fit(module, KeyedData())
    assert caught.value.code == 1
    assert caught.value.line.startswith("stopped at step 7, 3 skipped in a row, 3 of 7 in all: ")
    assert "keys 6-0" in caught.value.line
    other = NumericGuard()
    other.load_state_dict(guard.state_dict())
    assert (other.skipped, other.steps, other.in_a_row) == (3, 7, 3)


def test_too_large_a_share_of_skipped_steps_stops_too():
    guard = NumericGuard(max_in_a_row=3, max_share=0.25)
    with pytest.raises(NonFiniteError) as caught:
        trainer_with(guard, max_steps=100).fit(FaultyModule(every=3), KeyedData())
    # 6, 9, 12 and 15 are bad: the fourth is more than three and more than a quarter
    assert caught.value.line.startswith("stopped at step 15, 1 skipped in a row, 4 of 15 in all")


def test_the_command_line_ends_with_one_line_and_exit_code_1(fit, capsys):
    options = ["--model", "tests.callbacks.faulty_run.FaultyModule", "--model.every", "1"]
    assert fit(*options, "--data", "tests.callbacks.faulty_run.KeyedData", "--run_dir", "run") == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[0] for line in said] == ["step", "stopped"]
    assert len(Path("run/logs/bad_batches.jsonl").read_text().splitlines()) == 10


def scaled(init_scale: float) -> dict:
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=1000)
    return {"plugins": MixedPrecision("16-mixed", "cpu", scaler), "max_steps": 20}


def test_under_float16_the_scaler_skips_and_the_guard_counts_once():
    guard, module = NumericGuard(max_in_a_row=2), FaultyModule({3: "nan", 4: "gradient", 5: "nan"})
    trainer = trainer_with(guard, **scaled(2.0**16))
    trainer.fit(module, KeyedData())
    assert trainer.precision_plugin.scaler.get_scale() == 2.0**13
    assert (guard.skipped, guard.charged, len(lines())) == (3, 0, 3)


def test_under_float16_a_scale_that_has_fallen_to_1_stops_the_run():
    with pytest.raises(NonFiniteError) as caught:
        trainer_with(NumericGuard(max_in_a_row=2), **scaled(4.0)).fit(FaultyModule(every=1), KeyedData())
    assert "stopped at step 7" in caught.value.line  # 4 -> 2 is free, at 1 and below two count


def rank_faults(module: FaultyModule) -> None:
    if module.global_rank == 0:
        module.faults, module.every = {}, 0


class OnlyRankOne(FaultyModule):
    """Rank 0 sees nothing wrong in its own batches."""

    def on_fit_start(self) -> None:
        rank_faults(self)

    def on_train_end(self) -> None:
        guard = next(c for c in self.trainer.callbacks if isinstance(c, NumericGuard))
        torch.save({"weights": weights(self), "skipped": guard.skipped}, f"rank{self.global_rank}.pt")


class Telling(NumericGuard):
    """Writes down what it stops with, and waits for the other rank: the launcher of forks ends all with the first."""

    def on_train_batch_end(self, trainer, pl_module, *args):
        try:
            super().on_train_batch_end(trainer, pl_module, *args)
        except NonFiniteError as error:
            Path(f"error{trainer.global_rank}").write_text(error.line)
            deadline = time.monotonic() + PATIENCE
            while not Path(f"error{1 - trainer.global_rank}").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            raise


ENDED = (torch.multiprocessing.ProcessExitedException, torch.multiprocessing.ProcessRaisedException)
TWO = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_on_one_rank_is_skipped_by_both(fault):
    trainer_with(NumericGuard(), **TWO).fit(OnlyRankOne({3: fault}), KeyedData())
    one, two = torch.load("rank0.pt"), torch.load("rank1.pt")
    assert one["skipped"] == two["skipped"] == 1
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(one["weights"], two["weights"], strict=True))
    assert Path("logs/bad_batches.rank1.jsonl").exists()


def test_both_ranks_stop_at_the_same_step():
    with pytest.raises(ENDED):
        trainer_with(Telling(max_in_a_row=2), **TWO).fit(OnlyRankOne(every=1), KeyedData())
    said = [Path(f"error{rank}").read_text() for rank in (0, 1)]
    assert all(line.startswith("stopped at step 6, 2 skipped in a row") for line in said)


def test_why_not_the_parts_that_exist():
    """SpikeDetection looks after the step: the weights are gone. Anomaly mode does not see an infinite loss at all."""
    module = FaultyModule({3: "nan"})
    with pytest.raises(TrainingSpikeException):
        trainer_with(SpikeDetection(finite_only=True)).fit(module, KeyedData())
    assert not any(w.isfinite().all() for w in weights(module))
    trainer = trainer_with(detect_anomaly=True)
    trainer.fit(FaultyModule({3: "constant"}), KeyedData())
    assert trainer.global_step == 10


@pytest.mark.parametrize("bad", [{"max_in_a_row": 0}, {"max_share": 0.0}, {"max_share": 1.5}])
def test_bad_arguments_are_named(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        NumericGuard(**bad)
