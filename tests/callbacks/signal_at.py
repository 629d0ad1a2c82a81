"""A callback that sends signals to its own process, at a point of the run that does not depend on the machine."""

import os
import signal

from lightning.pytorch import Callback, LightningModule, Trainer


class SignalAt(Callback):
    """Send `number` to this process at the first call of one hook from global step `step` on, on rank `rank` or, if
    that is None, on every rank."""

    def __init__(
        self, hook: str, step: int = 0, name: str = "SIGTERM", times: int = 1, rank: int | None = None
    ) -> None:
        self.step, self.number, self.times, self.rank = step, getattr(signal, name), times, rank
        setattr(self, hook, self._send)

    def _send(self, trainer: Trainer, module: LightningModule, *args: object, **kwargs: object) -> None:
        if trainer.global_step >= self.step and self.rank in (None, trainer.global_rank):
            while self.times > 0:
                self.times -= 1
                os.kill(os.getpid(), self.number)
