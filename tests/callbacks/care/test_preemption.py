"""Real signals to this process in the middle of a tiny run: what is saved, what is said, which code comes back."""

import contextlib
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks import LastCheckpoint, Preemption
from callbacks.care import stop_signals
from callbacks.care.stop_signals import Stopped, exit_code
from tests.callbacks.signal_at import SignalAt
from tests.callbacks.tiny_run import TinyData, TinyModule
from tests.patience import PATIENCE

QUIET = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "logger": False,
    "accelerator": "cpu",
    "num_sanity_val_steps": 0,
}


class Record(Callback):
    """Every step with its loss, and every validation with its metric."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float]] = []

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: dict, *args: object) -> None:
        self.rows.append((trainer.global_step, float(outputs["loss"])))

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.rows.append((-trainer.global_step, float(trainer.callback_metrics["val/nll"])))


def train_tiny(folder: Path, *callbacks: Callback, ckpt_path: Path | None = None, **settings) -> tuple[Trainer, Record]:
    record = Record()
    torch.manual_seed(0)
    every = [record, *callbacks, LastCheckpoint(), Preemption(every_n_steps=1000)]
    trainer = Trainer(callbacks=every, default_root_dir=folder, **QUIET, **{"max_steps": 34, **settings})
    with contextlib.suppress(Stopped):
        trainer.fit(TinyModule(noise=0.0), TinyData(), ckpt_path=ckpt_path, weights_only=True)
    return trainer, record


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, list]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, train_tiny(folder)[1].rows


@pytest.mark.parametrize(
    ("hook", "step", "stops_at"),
    [
        ("on_train_batch_start", 12, 13),  # in the middle of an epoch
        ("on_train_batch_end", 19, 19),
        ("on_train_batch_start", 19, 20),  # at its end, where a validation is due
        ("on_validation_start", 20, 20),
        ("on_validation_batch_end", 20, 20),
        ("on_validation_epoch_end", 20, 21),
        ("on_save_checkpoint", 20, 21),  # while last.ckpt is being written
    ],
)
def test_a_run_stops_within_one_step_and_goes_on_bit_for_bit(tmp_path, whole, hook, step, stops_at):
    trainer, first = train_tiny(tmp_path, SignalAt(hook, step))
    assert trainer.global_step == stops_at
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == stops_at
    _, second = train_tiny(tmp_path, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert first.rows + second.rows == whole[1]  # no step and no validation lost, repeated or different
    for name, value in weights(whole[0]).items():
        assert torch.equal(weights(tmp_path)[name], value)


def test_a_validation_stopped_twice_is_done_once_in_the_end(tmp_path, whole):
    rows = []
    for _ in range(2):
        last = tmp_path / "checkpoints" / "last.ckpt"
        rows += train_tiny(tmp_path, SignalAt("on_validation_batch_end", 20), ckpt_path=last if rows else None)[1].rows
    rows += train_tiny(tmp_path, SignalAt("on_train_batch_start", 25), ckpt_path=last)[1].rows
    assert rows + train_tiny(tmp_path, ckpt_path=last)[1].rows == whole[1]


def test_accumulated_gradients_are_not_cut(tmp_path):
    trainer, _ = train_tiny(tmp_path, SignalAt("on_train_batch_start", 2), accumulate_grad_batches=4)
    assert (trainer.global_step, trainer.fit_loop.total_batch_idx) == (3, 9)  # epochs of 10: 4 + 4 + 2 batches


def stop_of(folder: Path, *callbacks: Callback) -> Stopped:
    trainer = Trainer(callbacks=[*callbacks, Preemption()], default_root_dir=folder, max_steps=9, **QUIET)
    with pytest.raises(Stopped) as stop:
        trainer.fit(TinyModule(), TinyData())
    return stop.value


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_exit_codes_and_what_is_said(tmp_path, monkeypatch, name):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    number = getattr(signal, name)
    before = signal.getsignal(number)
    stop = stop_of(tmp_path, SignalAt("on_train_batch_end", 3, name, times=2), LastCheckpoint())
    assert stop.code == exit_code(number) == (130 if name == "SIGINT" else 143)
    assert stop.line.startswith(f"stopped by {name} after step 3: saved {tmp_path}")
    assert signal.getsignal(number) == before
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert exit_code(number) == {"SIGTERM": 143, "SIGUSR1": 75, "SIGINT": 130}[name]


def test_a_failed_save_is_told_and_does_not_hide_the_code(tmp_path, monkeypatch):
    def fail(self, *args: object) -> None:
        raise OSError(28, "the disk is full")

    monkeypatch.setattr(Trainer, "save_checkpoint", fail)
    stop = stop_of(tmp_path, SignalAt("on_train_batch_end", 3), LastCheckpoint())
    assert (stop.code, "not saved: [Errno 28] the disk is full" in stop.line) == (143, True)


def test_without_a_saver_the_line_says_so(tmp_path):
    stop = stop_of(tmp_path, SignalAt("on_train_batch_end"))
    assert "not saved, there is no last_checkpoint callback" in stop.line


def test_why_lightnings_own_handlers_are_replaced(tmp_path):
    """Left alone it saves nothing and lets the process end with 0, which schedulers take for success."""
    trainer = Trainer(callbacks=[SignalAt("on_train_batch_end", 3)], default_root_dir=tmp_path, max_steps=9, **QUIET)
    with pytest.raises(SystemExit) as stop:
        trainer.fit(TinyModule(), TinyData())
    assert not stop.value.code
    for owner, name in (
        (trainer._signal_connector, "register_signal_handlers"),
        (trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor"),
    ):
        assert callable(getattr(type(owner), name))  # else silence_lightning would silence nothing


@pytest.fixture
def stopped(fit, capsys, monkeypatch):
    """`train.py fit` of the tiny run that signals itself in a hook; exit code and what stands on stderr."""
    monkeypatch.setattr(stop_signals, "GRACE", PATIENCE)  # on a busy machine Python may look at signals late

    def run(hook: str, *arguments: str) -> tuple[int, str]:
        own = ["--callbacks.signal", "tests.callbacks.signal_at.SignalAt", "--callbacks.signal.hook", hook]
        return fit("--run_dir", "run", *own, *arguments), capsys.readouterr().err

    return run


@pytest.mark.parametrize("hook", ["setup", "on_sanity_check_start", "on_test_batch_end"])
def test_outside_training_the_process_stops_at_once(stopped, hook):
    """Before the first step, in the sanity phase and in the test that follows training."""
    code, err = stopped(hook, "--trainer.num_sanity_val_steps", "1")
    assert code == 143, err
    assert err == "stopped by SIGTERM outside training: there was nothing to save\n"
    assert Path("run/checkpoints/last.ckpt").exists() == (hook == "on_test_batch_end")


def test_a_signal_in_the_last_validation_ends_the_run_after_it(stopped):
    code, err = stopped("on_validation_batch_end", "--callbacks.signal.init_args.step", "20")
    assert (code, "after step 20: training is complete and saved, the test is left" in err) == (143, True), err
    assert Path("run/checkpoints/best.ckpt").exists()


def test_switched_off_the_signal_stops_at_once(stopped):
    code, err = stopped(
        "on_train_batch_end", "--callbacks.preemption", "null", "--callbacks.signal.init_args.step", "5"
    )
    assert (code, "stopped by SIGTERM" in err) == (143, True), err


def test_bad_interval():
    with pytest.raises(ValueError, match="every_n_steps=0: of preemption"):
        Preemption(every_n_steps=0)
