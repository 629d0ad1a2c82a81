"""Samples per second, the share of time that waits for data, and how much of the device's arithmetic is used."""

import resource
import sys
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from callbacks.speed.device_peaks import peak_flops
from callbacks.speed.flop_count import FlopCount
from callbacks.speed.step_clock import Spent, StepClock
from fewstep.cadence import due

NAMES = ("image", "latent", "caption", "key", "x")  # entries with one row per sample, in this order


class Throughput(Callback):
    """Logs throughput/* every `log_every_n_steps` steps and prints one line at the end of training.

    samples_per_second: rows of the batches of all ranks; step_seconds: per optimizer step; data_wait: share in [0, 1],
    see StepClock; mfu: model FLOPs utilisation in [0, 1]; memory_gb: peak, see memory_gb.

    FLOPs are counted in the first batch (see FlopCount) and scaled by the rows of the others. With gradient
    checkpointing mfu is the utilisation of the hardware, because what is computed twice is counted twice.
    The first step is not timed; validation and checkpoints do not count.

    peak_flops: FLOP/s of one device, for those that device_peaks.py does not know. A CPU's is not known: its clock
    follows the load, and what one product reaches beside other work another exceeds by half. So it has no mfu without.

    Lightning's ThroughputMonitor waits for the GPU at every batch, needs the FLOPs from the module, and its table holds
    sparse rates for some devices and nothing for others. Source of mfu: Chowdhery et al. (2022), PaLM, appendix B.
    """

    def __init__(self, peak_flops: float | None = None) -> None:
        if peak_flops is not None and peak_flops <= 0:
            raise ValueError(f"peak_flops={peak_flops}: give the FLOP/s of one device, such as 3.12e14")
        self.peak_flops = peak_flops
        self.latest: dict[str, float] = {}  # the values logged last, by name
        self.unit = "samples"
        self._clock: StepClock | None = None
        self._count = FlopCount()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock = StepClock(trainer.strategy.root_device)
        self._timed = False  # not before the first step is done: it wakes up kernels and is counted
        self._rows, self._all_rows, self._all_spent = 0, 0, Spent()
        self._first_step = self._last_step = trainer.global_step
        self._flops_per_row: float | None = None
        self._peak = None if trainer.fast_dev_run else self._find_peak(trainer, pl_module)

    def _find_peak(self, trainer: Trainer, pl_module: LightningModule) -> float | None:
        """FLOP/s that MFU is measured against; None, which is said but for CPUs, where there is no MFU."""
        if self.peak_flops is None and trainer.strategy.root_device.type == "cpu":
            return None  # nobody expects one
        peak, why = None, "compiled modules, whose FLOPs cannot be counted"
        if FlopCount.countable(pl_module):
            peak = self.peak_flops or known_peak(trainer)
            name = f"{device_name(trainer)} in {number_format(trainer.precision)}"
            why = f"{name}: its peak is not known; give --callbacks.throughput.peak_flops"
        if peak is None and trainer.is_global_zero:
            print(f"throughput: no MFU for {why}", file=sys.stderr)
        return peak

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock.gap_starts()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._peak and self._flops_per_row is None:
            self._count.start()
        self._clock.batch_starts()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._clock.batch_ends()
        step = trainer.global_step
        if not self._timed:
            flops = self._count.stop()
            if flops is not None:
                self._flops_per_row = flops / max(rows_of(batch), 1)
            if isinstance(batch, Mapping) and batch.keys() & {"image", "latent"}:
                self.unit = "img"
            self._timed, self._first_step, self._last_step = step > self._first_step, step, step
            self._clock.take()
            return
        self._rows += rows_of(batch) * trainer.world_size
        if due(step, trainer.log_every_n_steps) and step != self._last_step:
            self._measure(trainer)
            pl_module.log_dict({f"throughput/{name}": value for name, value in self.latest.items()})

    def _measure(self, trainer: Trainer) -> None:
        """`latest` from what was done since the last call."""
        spent, rows = self._clock.take(), self._rows
        steps, self._last_step, self._rows = trainer.global_step - self._last_step, trainer.global_step, 0
        self._all_spent, self._all_rows = self._all_spent + spent, self._all_rows + rows
        self.latest = self._values(spent, rows, steps, trainer)

    def _values(self, spent: Spent, rows: int, steps: int, trainer: Trainer) -> dict[str, float]:
        seconds = max(spent.seconds, 1e-9)
        values = {"samples_per_second": rows / seconds, "step_seconds": seconds / max(steps, 1)}
        values["data_wait"] = min(spent.waiting / seconds, 1.0)
        if self._flops_per_row:
            values["mfu"] = self._flops_per_row * rows / trainer.world_size / seconds / self._peak
        values["memory_gb"] = memory_gb(trainer.strategy.root_device)
        return values

    def line(self, values: Mapping[str, float] | None = None) -> str:
        """`312 img/s  data 3 %  MFU 41 %` of these values, else of the latest; empty before there are any."""
        values = self.latest if values is None else values
        if not values:
            return ""
        share = 100 * values.get("mfu", 0)
        mfu = f"  MFU {share:.{0 if share >= 9.95 else 1}f} %" if "mfu" in values else ""
        rate = values["samples_per_second"]
        return f"{rate:.{0 if rate >= 100 else 1}f} {self.unit}/s  data {100 * values['data_wait']:.0f} %{mfu}"

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._clock is not None:
            self._clock.interrupt()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._clock is not None:
            self._clock.interrupt()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        latest = self.latest
        self._measure(trainer)
        steps = trainer.global_step - self._first_step
        values = self._values(self._all_spent, self._all_rows, steps, trainer)
        self.latest, self._clock = latest, None
        if self._timed and steps > 0 and not trainer.fast_dev_run:
            print_speed(self.line(values), values["step_seconds"], values["memory_gb"])

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._count.stop()


def rows_of(batch: Any) -> int:
    """Samples in a batch: the length of its first entry that has one row per sample."""
    if isinstance(batch, Mapping):
        batch = next((batch[name] for name in NAMES if name in batch), next(iter(batch.values()), ()))
    elif isinstance(batch, list | tuple) and batch and isinstance(batch[0], Tensor):
        batch = batch[0]
    return len(batch) if hasattr(batch, "__len__") else 0


def number_format(precision: str) -> str:
    """The format of the matrix products under a Trainer's precision, such as "bf16-mixed"."""
    for prefix, name in (
        ("bf16", "bfloat16"),
        ("16", "float16"),
        ("transformer-engine", "bfloat16"),
        ("64", "float64"),
    ):
        if precision.startswith(prefix):
            return name
    return "float32" if torch.get_float32_matmul_precision() == "highest" else "tfloat32"


def memory_gb(device: torch.device) -> float:
    """Peak so far: of torch's allocator on a GPU, of the resident memory of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def device_name(trainer: Trainer) -> str:
    """What the device calls itself."""
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def known_peak(trainer: Trainer) -> float | None:
    """Dense FLOP/s of one device by the table; None for others."""
    return peak_flops(device_name(trainer), number_format(trainer.precision))


@rank_zero_only
def print_speed(rates: str, step_seconds: float, memory_gb: float) -> None:
    """One line on how fast training was; rates: `312 img/s  data 3 %  MFU 41 %`."""
    print(f"speed   {rates}  {1e3 * step_seconds:.1f} ms per step  peak memory {memory_gb:.2f} GB", flush=True)
