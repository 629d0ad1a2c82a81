"""Skip steps whose loss or gradients are not finite, stop when that goes on, and never keep a broken state."""

import sys
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerStatus
from torch import Tensor
from torch.optim import Optimizer

from callbacks.care import bad_batches, step_skipping
from callbacks.care.finite_state import nonfinite_names, refuse_nonfinite_scores
from callbacks.care.stop_signals import Stopped
from fewstep.cadence import due

LAG = 2  # steps after which a GPU's answer is read: long since there, and the same on all ranks
COUNTS = ("steps", "skipped", "in_a_row", "charged")  # charged: those that count against max_share


class NonFiniteError(Stopped):
    """Training cannot go on with finite numbers: one line, exit code 1."""

    def __init__(self, line: str) -> None:
        super().__init__(1, line)


@dataclass
class _Step:
    number: int
    epoch: int
    batches: list[dict[str, Any]]  # index and keys of each, several where gradients are accumulated
    losses: list[Tensor]  # one for each backward pass
    terms: dict[str, Tensor]  # train/* as logged in this step
    skipped: step_skipping.LateFlag


class NumericGuard(Callback):
    """Look at loss and gradients before each optimizer step; a step that is not finite is skipped and counted.

    A skipped step changes no weight, no moment and no step count of the optimizer. It is a step otherwise: global_step
    and the learning rate's schedule move on, data and noise of the next one are what they would have been, and the
    moving average takes in the unchanged weights once more. Each is logged in train/skipped_steps and, with keys and
    losses of its batches, in RUN/logs/bad_batches.jsonl. The gradients are judged before they are clipped.

    max_in_a_row: skipped steps in a row after which the run stops with exit code 1. max_share: the same for their share
    of all steps, once there are more than max_in_a_row. Under float16 the loss scaler skips steps to find its scale:
    they are counted, but stop the run only when the scale has fallen to 1.

    A checkpoint with a NaN or an infinity is not written; the previous file stays and the run stops. Nor is a state
    kept as the best whose score is not finite.

    On GPUs the fused kernels skip by themselves and the host learns of it LAG steps later: it never waits. Other
    optimizers there cost one wait for the device per step, which is said once. Ranks agree without a message where
    gradients are averaged, and by one all-reduce of a number where they are split (FSDP).
    Errors: NonFiniteError; ValueError for weights that are not finite before the first step.
    """

    def __init__(self, max_in_a_row: int = 10, max_share: float = 0.05) -> None:
        if max_in_a_row < 1:
            raise ValueError(f"max_in_a_row={max_in_a_row}: of the numeric guard; give at least 1")
        if not 0 < max_share <= 1:
            raise ValueError(f"max_share={max_share}: of the numeric guard; give a share in (0, 1]")
        self.max_in_a_row, self.max_share = max_in_a_row, max_share
        self.steps = self.skipped = self.in_a_row = self.charged = 0
        self._pending: deque[_Step] = deque()
        self._batches: deque[dict[str, Any]] = deque(maxlen=256)  # since the last optimizer step
        self._losses: deque[Tensor] = deque(maxlen=256)
        self._flags: list[Tensor] = []
        self._on_device: dict[int, bool] = {}
        self._hooks: list[Any] = []
        self._terms: dict[str, Tensor] = {}
        self._said = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = nonfinite_names({"state_dict": dict(pl_module.named_parameters())})
        if state:
            raise ValueError(f"{state[0]} is not finite before the first step; start from other weights")
        self._ignored = set(nonfinite_names({"state_dict": dict(pl_module.named_buffers())}))  # masks of -inf
        for saver in trainer.checkpoint_callbacks:
            if hasattr(saver, "check_monitor_top_k"):
                refuse_nonfinite_scores(saver)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._sharded = isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
        self._scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._lag = LAG if pl_module.device.type == "cuda" else 0
        for optimizer in trainer.optimizers:
            self._on_device[id(optimizer)] = fast = self._scaler is None and step_skipping.can_skip_on_device(optimizer)
            if self._lag and self._scaler is None and not fast and trainer.is_global_zero:
                name = type(optimizer).__name__
                print(f"numeric guard: {name} is not fused and waits for the GPU at every step", file=sys.stderr)
            self._hooks.append(optimizer.register_step_pre_hook(partial(self._before_bare_step, trainer)))
            if fast:
                self._hooks.append(optimizer.register_step_post_hook(lambda opt, *_: step_skipping.clear(opt)))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batches.append({"index": batch_idx, "keys": bad_batches.keys_of(batch)})

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        step_skipping.poison(loss)
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._look(optimizer)

    def _before_bare_step(self, trainer: Trainer, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """A step of manual optimization that goes around Lightning; Lightning's own bring a closure."""
        closure = kwargs.get("closure") or next((arg for arg in args[1:] if callable(arg)), None)
        if closure is None and self._scaler is None and trainer.training:
            self._look(optimizer)

    @torch.no_grad()
    def _look(self, optimizer: Optimizer) -> None:
        if not (grads := step_skipping.gradients(optimizer)):
            return
        flag = step_skipping.nonfinite(grads)
        if self._sharded:
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        if self._scaler is None:  # else it skips
            step_skipping.drop(optimizer, flag, self._on_device[id(optimizer)])
        self._flags.append(flag)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._flags:
            flag = self._flags[0] if len(self._flags) == 1 else torch.stack(self._flags).amax()
            before, self._terms = self._terms, bad_batches.logged(trainer)
            new = {name: value for name, value in self._terms.items() if value is not before.get(name)}
            now = (trainer.global_step, trainer.current_epoch, list(self._batches), list(self._losses), new)
            self._pending.append(_Step(*now, step_skipping.LateFlag(flag)))
            for held in (self._batches, self._losses, self._flags):
                held.clear()
        while len(self._pending) > self._lag:
            self._settle(trainer, self._pending.popleft())
        if due(trainer.global_step, trainer.log_every_n_steps):
            pl_module.log("train/skipped_steps", float(self.skipped))

    def _settle(self, trainer: Trainer, step: _Step, may_stop: bool = True) -> None:
        self.steps += 1
        if not step.skipped:
            self.in_a_row = 0
            return
        self.skipped += 1
        entry = {"event": "skipped step", "step": step.number, "epoch": step.epoch, "batches": step.batches}
        entry |= {"loss": [float(loss) for loss in step.losses]}
        entry |= {"terms": {name: float(value) for name, value in step.terms.items()}}
        bad_batches.record(trainer, entry)
        if self._scaler is not None and self._scaler.get_scale() > 1:
            return
        self.in_a_row, self.charged = self.in_a_row + 1, self.charged + 1
        files = bad_batches.path_of(trainer).with_name("bad_batches*.jsonl")
        keys = bad_batches.shown([key for batch in step.batches for key in batch["keys"]])
        what = f"loss or gradient not finite, {keys}, see {files}"
        if not self._said and trainer.is_global_zero:
            self._said = True
            print(f"step {step.number} skipped: {what}; further ones in train/skipped_steps", file=sys.stderr)
        too_many = self.charged > max(self.max_in_a_row, self.max_share * self.steps)
        if may_stop and (self.in_a_row >= self.max_in_a_row or too_many):
            raise NonFiniteError(
                f"stopped at step {step.number}, {self.in_a_row} skipped in a row, {self.charged} of {self.steps} in "
                f"all: {what}; mend these samples, lower the learning rate or add --trainer.gradient_clip_val 1, "
                "then --resume auto"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        while self._pending:
            self._settle(trainer, self._pending.popleft(), may_stop=False)
        if self.skipped and trainer.is_global_zero:
            print(f"{self.skipped} of {self.steps} steps were skipped", file=sys.stderr)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        found = [name for name in nonfinite_names(checkpoint) if name not in self._ignored]
        broken = bool(found)
        if trainer.state.status != TrainerStatus.INTERRUPTED:  # after an error the other ranks may be gone
            broken = trainer.strategy.reduce_boolean_decision(broken, all=False)
        if broken:
            raise NonFiniteError(
                f"stopped at step {trainer.global_step}: {found[0] if found else 'the state of another rank'} is not "
                "finite; the previous checkpoint is intact; lower the learning rate, then --resume auto"
            )

    def state_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in COUNTS}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        for name in COUNTS:
            setattr(self, name, int(state_dict[name]))
