"""Exponential moving average of the trainable weights, kept by a callback."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA(Callback):
    """Average the trainable weights during training; validate, test and predict with the average.

    After update n the average moves by average <- d average + (1 - d) weight, d = min(decay, (1 + n) / (10 + n)):
    the rising d lets the average leave its starting point quickly. Frozen networks are never copied.

    A checkpoint always holds the raw weights in `state_dict` and the average in this callback's state, also when it is
    written while the two are exchanged. `save_weights_only` checkpoints carry no callback state, hence no average.

    decay: in [0, 1); start_step: optimizer steps before the first update; every_n_steps: steps between updates.
    Source: Polyak and Juditsky (1992); the warm-up is the one of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, decay: float = 0.999, start_step: int = 0, every_n_steps: int = 1) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay={decay}: of the moving average; choose a value in [0, 1), for example 0.999")
        if start_step < 0 or every_n_steps < 1:
            raise ValueError(f"ema needs start_step >= 0 and every_n_steps >= 1, got {start_step} and {every_n_steps}")
        self.decay = decay
        self.start_step = start_step
        self.every_n_steps = every_n_steps
        self.num_updates = 0
        self.average: dict[str, Tensor] = {}  # parameter name -> average; empty before the first update
        self._weights: list[Tensor] = []  # the parameters themselves, in the order of `average`
        self._last_step = -1
        self._exchanged = self._restored = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            raise ValueError("ema cannot average sharded weights; switch it off with --callbacks.ema null")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step
        if self.average:  # resumed
            self._bind(pl_module)
            if lost := [n for n, p in pl_module.named_parameters() if p.requires_grad and n not in self.average]:
                raise ValueError(f"the checkpoint's moving average lacks {', '.join(lost[:3])}; resume from another")
        elif trainer.global_step and not self._restored and trainer.is_global_zero:
            print(f"ema     no average in the checkpoint; it begins after step {trainer.global_step}")

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = step > self.start_step and step % self.every_n_steps == 0
        if not due or step == self._last_step:  # the same step twice: gradients are being accumulated
            return
        self._last_step = step
        if not self.average:
            named = [(name, p) for name, p in pl_module.named_parameters() if p.requires_grad]
            self.average = {name: p.detach().clone() for name, p in named}
            self._weights = [p.detach() for _, p in named]
        else:
            decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
            get_ema_multi_avg_fn(decay)(list(self.average.values()), self._weights, None)
        self.num_updates += 1

    @torch.no_grad()
    def _bind(self, module: LightningModule) -> None:
        """Find the parameters that `average` belongs to and bring the average to their device and dtype."""
        named = dict(module.named_parameters())
        wrong = [n for n, a in self.average.items() if n not in named or named[n].shape != a.shape]
        if wrong:
            raise ValueError(f"the checkpoint's moving average does not fit the model: {', '.join(wrong[:3])}")
        self._weights = [named[name].detach() for name in self.average]
        self.average = {n: a.to(w) for (n, a), w in zip(self.average.items(), self._weights, strict=True)}

    @torch.no_grad()
    def _exchange(self) -> None:
        # In place: optimizers, compiled graphs and DDP buckets keep pointing at the same storage.
        for average, weight in zip(self.average.values(), self._weights, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
        self._exchanged = not self._exchanged

    def _swap_in(self, module: LightningModule) -> None:
        if self.average and not self._exchanged:
            self._bind(module)
            self._exchange()

    def _swap_out(self) -> None:
        if self._exchanged:
            self._exchange()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_in(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_out()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_in(pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_out()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_in(pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_out()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._swap_out()

    def state_dict(self) -> dict[str, Any]:
        held = self._weights if self._exchanged else self.average.values()
        average = {name: tensor.detach().clone() for name, tensor in zip(self.average, held, strict=True)}
        return {"num_updates": self.num_updates, "average": average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.num_updates = int(state_dict["num_updates"])
        self.average = dict(state_dict["average"])
        self._weights, self._exchanged, self._restored = [], False, True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._exchanged:  # `average` holds the raw weights just now
            weights = {name: tensor.detach().clone() for name, tensor in self.average.items()}
            checkpoint["state_dict"].update(weights)
