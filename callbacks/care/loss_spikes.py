"""Report losses that leap out of their recent range, with the keys of their batches."""

import math
import sys
from collections import deque
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.care import bad_batches
from fewstep.cadence import due

NORMAL = 1.4826  # median absolute deviation -> standard deviation of a normal distribution
FLOOR = 1e-3  # smallest scale, relative to the median: a constant history makes no spike of its own rounding


class LossSpikes(Callback):
    """Watch the training loss for values more than `threshold` robust deviations above its running median.

    A spike is written to RUN/logs/bad_batches.jsonl with the keys of its batch and counted in train/loss_spikes; a line
    on stderr tells of the first one and then at most every `report_every_n_steps` steps. Nothing is changed: a spike
    with finite gradients is a step like any other. Each rank watches the loss of its own batches.

    Losses stay on the device and are fetched `block` batches at a time, so a spike is told of up to `block` batches
    later. With manual optimization the loss is the sum over the backward passes of a batch.

    threshold: in standard deviations of a normal distribution; window: how many losses the median is taken over;
    nothing is called a spike before half of them are there. Losses that are not finite are the numeric guard's.
    """

    def __init__(
        self, threshold: float = 10.0, window: int = 200, block: int = 50, report_every_n_steps: int = 500
    ) -> None:
        if threshold <= 0 or window < 2 or block < 1 or report_every_n_steps < 1:
            raise ValueError(
                f"loss spikes threshold={threshold}, window={window}, block={block}, report_every_n_steps="
                f"{report_every_n_steps}: give a positive threshold, a window of at least 2 and counts of at least 1"
            )
        self.threshold, self.window, self.block = threshold, window, block
        self.report_every_n_steps = report_every_n_steps
        self.spikes = 0
        self._history: deque[float] = deque(maxlen=window)
        self._held: list[tuple[Tensor, dict[str, Any]]] = []
        self._backward: list[Tensor] = []
        self._said_at = -math.inf

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if not pl_module.automatic_optimization:
            self._backward.append(loss.detach())

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if self._backward:
            loss = torch.stack(self._backward).sum()
            self._backward.clear()
        if isinstance(loss, Tensor):
            place = {"step": trainer.global_step, "epoch": trainer.current_epoch}
            place["batches"] = [{"index": batch_idx, "keys": bad_batches.keys_of(batch)}]
            self._held.append((loss.detach(), place))
        if len(self._held) >= self.block:
            self._inspect(trainer)
        if due(trainer.global_step, trainer.log_every_n_steps):
            pl_module.log("train/loss_spikes", float(self.spikes))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._inspect(trainer)

    def _inspect(self, trainer: Trainer) -> None:
        """Compare a block with the losses before it, then add it to them."""
        if not self._held:
            return
        losses = torch.stack([loss for loss, _ in self._held]).double().cpu()
        if 2 * len(self._history) >= self.window:
            history = torch.tensor(list(self._history), dtype=torch.float64)
            deviations = robust_deviations(losses, history).tolist()
            for i, deviation in enumerate(deviations):
                if self.threshold < deviation < math.inf:
                    self._report(trainer, float(losses[i]), deviation, float(history.median()), self._held[i][1])
        self._history.extend(losses[losses.isfinite()].tolist())
        self._held.clear()

    def _report(self, trainer: Trainer, loss: float, deviation: float, median: float, place: dict[str, Any]) -> None:
        self.spikes += 1
        entry = {"event": "loss spike", **place, "loss": [loss], "median": median, "deviations": round(deviation, 1)}
        bad_batches.record(trainer, entry)
        if place["step"] - self._said_at < self.report_every_n_steps:
            return
        self._said_at = place["step"]
        keys, file = bad_batches.shown(place["batches"][0]["keys"]), bad_batches.path_of(trainer)
        size = f"{loss:.4g} is {deviation:.0f} deviations above the median {median:.4g}"
        print(f"loss spike at step {place['step']}: {size}, {keys}; {self.spikes} so far, see {file}", file=sys.stderr)

    def state_dict(self) -> dict[str, int]:
        return {"spikes": self.spikes}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.spikes = int(state_dict["spikes"])


def robust_deviations(values: Tensor, history: Tensor) -> Tensor:
    """(value - median) / (1.4826 MAD) for values [B] given a history [N]; both finite, N >= 1; returns [B].

    Source: Hampel (1974), the median absolute deviation as a scale.
    """
    median = history.median()
    scale = NORMAL * (history - median).abs().median()
    floor = torch.maximum(FLOOR * median.abs(), torch.full_like(median, torch.finfo(history.dtype).tiny))
    return (values - median) / torch.maximum(scale, floor)
