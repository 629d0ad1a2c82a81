"""When LastCheckpoint writes, and that it does not write twice."""

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks import LastCheckpoint
from tests.callbacks.tiny_run import TinyData, TinyModule


class StopAt(Callback):
    """Ask for a stop in the middle of an epoch, as a timer does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: object) -> None:
        trainer.should_stop = trainer.global_step >= self.step


def saved_steps(tmp_path, monkeypatch, *callbacks: Callback, **settings) -> list[int]:
    steps: list[int] = []
    monkeypatch.setattr(Trainer, "save_checkpoint", lambda self, path, *args: steps.append(self.global_step))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = Trainer(callbacks=list(callbacks), default_root_dir=tmp_path, **quiet, **settings)
    trainer.fit(TinyModule(), TinyData())
    return steps


def test_after_each_validation_and_at_the_last_step(tmp_path, monkeypatch):
    assert saved_steps(tmp_path, monkeypatch, LastCheckpoint(), max_steps=23) == [10, 20, 23]


def test_every_n_steps_with_accumulated_gradients(tmp_path, monkeypatch):
    callback = LastCheckpoint(every_n_steps=2)
    assert saved_steps(tmp_path, monkeypatch, callback, max_steps=4, accumulate_grad_batches=2) == [2, 4]


def test_a_stop_in_the_middle_of_an_epoch(tmp_path, monkeypatch):
    stop = {"max_epochs": 5, "min_steps": 1}
    assert saved_steps(tmp_path, monkeypatch, LastCheckpoint(), StopAt(13), **stop)[-1] == 13


def test_bad_interval():
    with pytest.raises(ValueError, match="every_n_steps=0: of the last"):
        LastCheckpoint(every_n_steps=0)
