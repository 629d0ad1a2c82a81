"""Every checkpoint that a run writes leads to its own end, bit for bit: a kill leaves one of them as the newest."""

import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from benchmarks.reliability.promises import same_state
from callbacks import AtomicCheckpointIO
from tests.callbacks.tiny_run import TinyData, TinyModule

STOPPER = ["--callbacks.early_stopping", "lightning.pytorch.callbacks.EarlyStopping"]
STOPPER += ["--callbacks.early_stopping.monitor", "val/nll", "--callbacks.early_stopping.patience", "1"]
NEVER_BETTER = ["--callbacks.early_stopping.min_delta", "1000"]  # than the first: the second validation stops the run
CLIPPED = ["--trainer.gradient_clip_val", "0.1"]
ACROSS = ["--trainer.check_val_every_n_epoch", "null"]
AT_EPOCH_END = ["--callbacks.checkpoint.save_on_train_epoch_end", "true"]
PLATEAU = ["--model", "tests.callbacks.checkpoints.test_exact_resume.Plateau", "--model.lr", "0.3"]
BY_STEPS = ["--callbacks.checkpoint.every_n_train_steps", "3"]
EPOCHS = ["--trainer.max_steps", "-1", "--trainer.max_epochs", "3"]


class Plateau(TinyModule):
    """The learning rate falls whenever val/nll does not improve by a lot."""

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, threshold=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/nll"}}


def accumulate(batches: int) -> list[str]:
    return ["--trainer.accumulate_grad_batches", str(batches)]


def validate_every(batches: int) -> list[str]:
    return ["--trainer.val_check_interval", str(batches)]


@pytest.fixture
def kills(monkeypatch) -> list[Path]:
    """Grows by a copy of whole/checkpoints after each write to it: what a kill at that moment would leave."""
    copies: list[Path] = []
    save = AtomicCheckpointIO.save_checkpoint

    def save_and_copy(self, checkpoint: dict, path: str | Path, storage_options: object = None) -> None:
        save(self, checkpoint, path, storage_options)
        if Path(path).absolute().parents[1].name == "whole":
            copies.append(Path(f"killed_{len(copies)}").absolute())
            shutil.copytree("whole/checkpoints", copies[-1] / "checkpoints")

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save_and_copy)
    return copies


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ([*accumulate(2), *validate_every(3), *CLIPPED, "--trainer.max_steps", "6"], 6),
        ([*accumulate(3), *validate_every(4), "--trainer.max_steps", "6"], 6),
        ([*accumulate(5), *validate_every(7), *ACROSS, "--trainer.max_steps", "4"], 4),
        ([*STOPPER, *NEVER_BETTER, "--callbacks.last_checkpoint.every_n_steps", "10"], 20),
        ([*STOPPER, *NEVER_BETTER, *validate_every(4)], 8),
        ([*STOPPER, *NEVER_BETTER, *validate_every(4), *accumulate(3)], 3),
        ([*STOPPER, *EPOCHS, "--callbacks.checkpoint", "null"], 30),
        ([*STOPPER, *AT_EPOCH_END, "--trainer.max_steps", "23"], 23),
        ([*PLATEAU, *AT_EPOCH_END, "--trainer.max_steps", "23"], 23),
        ([*BY_STEPS, *validate_every(4), "--trainer.max_steps", "17"], 17),
    ],
    ids=[
        "2",
        "3",
        "5_across_epochs",
        "stop",
        "stop_mid_epoch",
        "stop_accumulated",
        "epochs",
        "epoch_end",
        "plateau",
        "by_steps",
    ],
)
def test_every_checkpoint_goes_on_bit_for_bit(fit, load, kills, arguments, steps):
    quick = ["--test_after_fit", "false"]
    assert fit("--run_dir", "whole", *quick, *arguments) == 0
    whole = load("whole/checkpoints/last.ckpt")
    assert whole["global_step"] == steps
    assert len(kills) > 2
    for run in kills:
        assert fit("--run_dir", str(run), "--resume", "auto", *quick, *arguments) == 0
        last = load(run / "checkpoints" / "last.ckpt")
        same_state(last, whole)
        assert last["loops"] == whole["loops"]  # no epoch, batch or validation counted twice or left out
        for best in Path("whole/checkpoints").glob("best.ckpt"):
            assert load(run / "checkpoints" / "best.ckpt")["global_step"] == load(best)["global_step"]


@pytest.mark.parametrize(("batches", "every"), [(1, 4), (2, 3), (3, 2), (3, 4), (5, 3)])
def test_a_validation_waits_for_the_step_that_it_falls_into(fit, load, monkeypatch, batches, every):
    """The rule by hand: of the batches 1 to 10 those that end a step and have a multiple of `every` in it."""
    seen: list[int] = []
    hook = TinyModule.on_validation_start
    monkeypatch.setattr(
        TinyModule, "on_validation_start", lambda self: (seen.append(self.trainer.fit_loop.batch_idx + 1), hook(self))
    )
    one_epoch = ["--trainer.max_steps", "-1", "--trainer.max_epochs", "1", "--test_after_fit", "false"]
    assert fit("--run_dir", "run", *accumulate(batches), *validate_every(every), *one_epoch) == 0
    windows = [range(start, min(start + batches, 11)) for start in range(1, 11, batches)]
    assert seen == [window[-1] for window in windows if any(batch % every == 0 for batch in window)]


def test_a_finished_run_that_is_resumed_without_a_step_keeps_what_was_measured(fit, load, kills):
    """A kill between the last best.ckpt and last.ckpt: the resume writes it, and a longer run goes on from it."""
    quick = [*STOPPER, "--test_after_fit", "false"]
    assert fit("--run_dir", "whole", *quick) == 0
    killed = next(run for run in kills if load(run / "checkpoints" / "best.ckpt")["global_step"] == 20)
    assert load(killed / "checkpoints" / "last.ckpt")["global_step"] == 10
    for length in ("20", "23"):
        assert fit("--run_dir", str(killed), "--resume", "auto", *quick, "--trainer.max_steps", length) == 0
        assert load(killed / "checkpoints" / "last.ckpt")["global_step"] == int(length)
    assert fit("--run_dir", "longer", *quick, "--trainer.max_steps", "23") == 0
    same_state(load(killed / "checkpoints" / "last.ckpt"), load("longer/checkpoints/last.ckpt"))


@pytest.mark.parametrize("nothing", [["--trainer.max_steps", "5"], ["--trainer.limit_val_batches", "0"]])
def test_a_run_without_a_validation_ends_well_and_says_that_nothing_was_judged(fit, capsys, nothing):
    assert fit("--run_dir", "run", *STOPPER, *nothing) == 0
    assert capsys.readouterr().err == "early stopping: val/nll was never measured, there was no validation\n"


def test_a_metric_that_no_validation_logs_is_one_line(fit, capsys):
    assert fit("--run_dir", "run", *STOPPER, "--callbacks.early_stopping.monitor", "val/nlll") == 1
    assert (
        capsys.readouterr().err
        == "error: early stopping monitors val/nlll, which is not measured; measured are val/nll\n"
    )


def test_more_patience_lets_a_stopped_run_go_on(fit, load):
    stops = ["--run_dir", "run", *STOPPER, *NEVER_BETTER, "--trainer.max_steps", "30", "--test_after_fit", "false"]
    for patience, step in ((1, 20), (1, 20), (2, 30)):
        resume = ["--resume", "auto"] if Path("run").exists() else []
        assert fit(*stops, *resume, "--callbacks.early_stopping.patience", str(patience)) == 0
        assert load("run/checkpoints/last.ckpt")["global_step"] == step


@pytest.mark.parametrize(
    "stored",
    [
        [],
        {"metrics": [1]},
        {"metrics": {"val/nll": "0.1"}},
        {"metrics": {1: torch.ones(1)}},
        {"metrics": {"val/nll": torch.tensor(True)}},
        {"metrics": {"val/nll": torch.tensor(1j)}},
        {"metrics": {"val/nll": torch.ones(1).to_sparse()}},
    ],
)
def test_metrics_that_are_no_numbers_are_one_line(fit, load, capsys, stored):
    assert fit("--run_dir", "run", "--trainer.max_steps", "2", "--test_after_fit", "false") == 0
    file = "run/checkpoints/last.ckpt"
    torch.save(load(file) | {"monitored_metrics": stored}, file)
    assert fit("--run_dir", "run", "--resume", file) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: the checkpoint's ")
    assert "resume from another checkpoint" in err
    assert err.count("\n") == 1


def no_position(checkpoint):
    checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"] = []


def other_steps(checkpoint):
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]
    progress["optimizer"]["step"]["total"]["completed"] = 10**12


def half_an_average(checkpoint):
    checkpoint["callbacks"]["EMA"]["average"].popitem()


@pytest.mark.parametrize(
    ("loses", "line"),
    [
        (no_position, "the checkpoint holds the position of 0 training loaders, the data have 1"),
        (other_steps, "global_step is 2, expected the loops' 1000000000000"),
        (half_an_average, "the checkpoint's moving average lacks net.layers.2.bias"),
    ],
)
def test_what_a_resume_would_quietly_lose_is_one_line(fit, load, capsys, loses, line):
    assert fit("--run_dir", "run", "--trainer.max_steps", "2", "--test_after_fit", "false") == 0
    file = "run/checkpoints/last.ckpt"
    checkpoint = load(file)
    loses(checkpoint)
    torch.save(checkpoint, file)
    assert fit("--run_dir", "run", "--resume", file) in (1, 2)
    err = capsys.readouterr().err
    assert line in err
    assert err.count("\n") == 1
    assert load(file)["global_step"] == 2


def test_an_average_that_begins_late_is_said(fit, load, capsys):
    short = ["--test_after_fit", "false", "--trainer.max_steps"]
    assert fit("--run_dir", "run", "--callbacks.ema", "null", *short, "2") == 0
    assert fit("--run_dir", "run", "--resume", "run/checkpoints/last.ckpt", *short, "4") == 0
    assert "ema     no average in the checkpoint; it begins after step 2" in capsys.readouterr().out
    assert load("run/checkpoints/last.ckpt")["callbacks"]["EMA"]["num_updates"] == 2


def test_why_lightning_alone_is_not_enough(tmp_path):
    """Its early stopping, resumed from the checkpoint of a validation, meets an epoch end without metrics."""
    saver = ModelCheckpoint(tmp_path, "best", monitor="val/nll", save_on_train_epoch_end=False)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    for path in (None, tmp_path / "best.ckpt"):
        trainer = Trainer(max_steps=12, accelerator="cpu", callbacks=[EarlyStopping("val/nll"), saver], **quiet)
        if path is None:
            trainer.fit(TinyModule(), TinyData())
        else:
            with pytest.raises(RuntimeError, match="Early stopping conditioned on metric `val/nll`"):
                trainer.fit(TinyModule(), TinyData(), ckpt_path=path, weights_only=True)
