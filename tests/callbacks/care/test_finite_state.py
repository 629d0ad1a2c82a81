"""A state that is not finite is never kept, and a score that is not finite is never the best."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks import EMA, LastCheckpoint, NumericGuard
from callbacks.care.finite_state import nonfinite_names
from callbacks.care.numeric_guard import NonFiniteError
from tests.callbacks.faulty_run import FaultyModule, KeyedData, trainer_with
from tests.callbacks.tiny_run import TinyData, TinyModule


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Break(Callback):
    """Puts an infinity into a part of the state after step 5."""

    def __init__(self, part: str) -> None:
        self.part = part

    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_step == 5:
            state = next(iter(trainer.optimizers[0].state.values()))
            average = next(c for c in trainer.callbacks if isinstance(c, EMA)).average
            parts = {"weights": pl_module.net.layers[0].weight.data, "optimizer": state["exp_avg"]}
            parts |= {"EMA": next(iter(average.values())), "buffer": pl_module.net.get_buffer("seen")}
            parts[self.part].view(-1)[0] = float("inf")


@pytest.mark.parametrize("part", ["weights", "optimizer", "EMA", "buffer"])
def test_a_broken_state_is_not_saved_and_the_previous_file_stays(part):
    module = FaultyModule()
    module.net.register_buffer("seen", torch.zeros(2))
    module.net.register_buffer("mask", torch.full((2,), -float("inf")))  # infinite from the start: allowed
    parts = [
        NumericGuard(),
        EMA(),
        Break(part),
        LastCheckpoint(every_n_steps=4),
        ModelCheckpoint("best", every_n_epochs=1),
    ]
    with pytest.raises(NonFiniteError) as caught:
        trainer_with(*parts, enable_checkpointing=True).fit(module, KeyedData())
    assert "is not finite; the previous checkpoint is intact" in caught.value.line
    saved = torch.load("checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    assert nonfinite_names(saved) == ["weights net.mask"]
    assert not Path("best").exists()


class Scores(TinyModule):
    """val/nll is what it is told to be."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = scores

    def validation_step(self, batch, batch_idx):
        self.log("val/nll", torch.tensor(self.scores[self.current_epoch]))


@pytest.mark.parametrize("guarded", [False, True])
def test_a_score_that_is_not_finite_is_never_the_best(guarded, capsys):
    """Without the guard Lightning keeps a NaN as the best, here until a finite score comes in epoch 2."""
    saver = ModelCheckpoint("best", "best", monitor="val/nll", enable_version_counter=False)
    kept = []
    watch = Callback()
    watch.on_train_epoch_start = lambda trainer, module: kept.append(Path("best/best.ckpt").exists())
    settings = {"limit_val_batches": 1, "max_steps": 40, "enable_checkpointing": True}
    module = Scores([float("nan"), float("inf"), 3.0, float("nan")])
    trainer_with(*[NumericGuard()][: int(guarded)], watch, saver, **settings).fit(module, TinyData())
    assert kept == [False, not guarded, not guarded, True]
    assert float(saver.best_model_score) == 3.0
    assert capsys.readouterr().err.count("not kept as the best") == int(guarded)


def test_weights_that_are_broken_from_the_start_are_named():
    module = FaultyModule()
    module.net.layers[0].bias.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"weights net.layers.0.bias is not finite before the first step"):
        trainer_with(NumericGuard()).fit(module, KeyedData())
