"""EMA: the average is right, is used where it should be, and never leaks into the raw weights."""

from copy import deepcopy

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from callbacks import EMA
from tests.callbacks.tiny_run import TinyData, TinyModule


class Watch(Callback):
    """Remember the weights at chosen moments; placed before EMA it sees validation with the average in place."""

    def __init__(self) -> None:
        self.trained: list[torch.Tensor] = []
        self.validated: torch.Tensor
        self.tested: torch.Tensor
        self.checkpoint: dict

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: object) -> None:
        self.trained.append(weight(module))

    def on_validation_batch_end(self, trainer: Trainer, module: LightningModule, *args: object) -> None:
        self.validated = weight(module)
        # a copy, as a file would be: the tensors themselves change places a moment later
        self.checkpoint = deepcopy(trainer._checkpoint_connector.dump_checkpoint(weights_only=False))

    def on_test_batch_end(self, trainer: Trainer, module: LightningModule, *args: object) -> None:
        self.tested = weight(module)


def weight(module: nn.Module) -> torch.Tensor:
    return module.net.layers[0].weight.detach().clone()


NAME = "net.layers.0.weight"


def trainer_with(*callbacks: Callback, **settings: object) -> Trainer:
    defaults = {"max_steps": 10, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(callbacks=list(callbacks), **defaults | quiet | settings)


def test_average_equals_the_recursion_written_out(tmp_path):
    ema, watch, module = EMA(decay=0.7, start_step=2, every_n_steps=2), Watch(), TinyModule(lr=0.1)
    trainer_with(ema, watch).fit(module, TinyData())
    seen = [watch.trained[step - 1].double() for step in (4, 6, 8, 10)]  # step > 2 and even
    expected = seen[0]
    for n, value in enumerate(seen[1:], start=1):
        decay = min(0.7, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(ema.average[NAME].double(), expected, rtol=1e-6, atol=1e-7)
    assert ema.num_updates == 4


def test_validation_uses_the_average_and_training_goes_on_with_the_raw_weights():
    ema, watch, module = EMA(decay=0.9), Watch(), TinyModule(lr=0.1)
    trainer_with(watch, ema).fit(module, TinyData())
    assert torch.equal(watch.validated, ema.average[NAME])
    assert torch.equal(weight(module), watch.trained[-1])
    assert not torch.equal(watch.validated, weight(module))


def test_checkpoint_written_during_validation_holds_raw_weights_and_average_in_their_places():
    ema, watch, module = EMA(decay=0.9), Watch(), TinyModule(lr=0.1)
    trainer_with(watch, ema).fit(module, TinyData())
    assert torch.equal(watch.checkpoint["state_dict"][NAME], weight(module))
    assert torch.equal(watch.checkpoint["callbacks"]["EMA"]["average"][NAME], ema.average[NAME])


@pytest.mark.parametrize("stage", ["validation", "test", "predict"])
def test_an_exception_while_the_average_is_in_place_restores_the_raw_weights(stage):
    ema, watch, module = EMA(decay=0.9), Watch(), TinyModule(lr=0.1)
    trainer = trainer_with(ema, watch)
    trainer.fit(module, TinyData())

    def fail(*args: object) -> None:
        assert not torch.equal(weight(module), watch.trained[-1])  # the fault strikes with the average in place
        raise RuntimeError("fault")

    setattr(module, f"{stage}_step", fail)
    run = {"validation": trainer.validate, "test": trainer.test, "predict": trainer.predict}[stage]
    with pytest.raises(RuntimeError, match="fault"):
        run(module, datamodule=TinyData())
    assert torch.equal(weight(module), watch.trained[-1])


def test_frozen_weights_are_not_averaged():
    module = TinyModule()
    module.net.layers[0].requires_grad_(False)
    ema = EMA()
    trainer_with(ema).fit(module, TinyData())
    assert set(ema.average) == {"net.layers.2.weight", "net.layers.2.bias"}


def test_accumulated_gradients_count_as_one_step():
    ema = EMA()
    trainer_with(ema, max_steps=4, accumulate_grad_batches=3).fit(TinyModule(), TinyData(steps_per_epoch=12))
    assert ema.num_updates == 4


def test_test_with_a_checkpoint_uses_the_average_of_that_checkpoint(tmp_path):
    ema, module = EMA(decay=0.9), TinyModule(lr=0.1)
    trainer = trainer_with(ema)
    trainer.fit(module, TinyData())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    watch, fresh = Watch(), TinyModule()
    other = trainer_with(watch, EMA(decay=0.9))
    other.test(fresh, datamodule=TinyData(), ckpt_path=tmp_path / "a.ckpt", weights_only=True, verbose=False)
    assert torch.equal(watch.tested, ema.average[NAME])
    assert torch.equal(weight(fresh), weight(module))


def test_a_model_of_another_shape_is_refused(tmp_path):
    ema = EMA()
    ema.load_state_dict({"num_updates": 3, "average": {NAME: torch.zeros(9, 2)}})
    with pytest.raises(ValueError, match=f"does not fit the model: {NAME}"):
        trainer_with(ema).fit(TinyModule(), TinyData())


@pytest.mark.parametrize("bad", [{"decay": 1.0}, {"decay": -0.1}, {"every_n_steps": 0}, {"start_step": -1}])
def test_bad_arguments_are_named(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        EMA(**bad)
