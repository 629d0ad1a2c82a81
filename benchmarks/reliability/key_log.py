"""Which samples every step of a training saw, and the loss it gave, on disk before the step counts."""

import json
import os
import time
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from benchmarks.reliability.promises import require


class KeyLog(Callback):
    """Append {step, rank, world, keys} before and {step, rank, world, loss} after each step to `path`.RANK.

    pause: seconds to sleep in each step. hold: the step in which to wait for the file `path`.go, which is written when
    the fault has happened. With both, a fault finds the run in its middle however slow the machine is.
    """

    def __init__(self, path: str, pause: float = 0.0, hold: int | None = None) -> None:
        self.path, self.pause, self.hold = path, pause, hold

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._step = trainer.global_step
        self._write(trainer, {"keys": names_of(batch, trainer)})
        time.sleep(self.pause)
        while self._step == self.hold and not os.path.exists(f"{self.path}.go"):
            time.sleep(0.01)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self._write(trainer, {"loss": float(loss)})

    def _write(self, trainer: Trainer, entry: dict[str, Any]) -> None:
        line = {"step": self._step, "rank": trainer.global_rank, "world": trainer.world_size, **entry}
        file = os.open(f"{self.path}.{trainer.global_rank}", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(file, f"\n{json.dumps(line)}".encode())  # what a kill tears stays alone on its line
        os.close(file)


def names_of(batch: dict[str, Any], trainer: Trainer) -> list[Any]:
    """Keys of images; of rows of numbers, which have none, their checksums, one list per table."""
    if "key" in batch:
        return list(batch["key"])
    names = [[zlib.crc32(row.numpy().tobytes()) for row in values.cpu()] for _, values in sorted(batch.items())]
    return [list(row) for row in zip(*names, strict=True)]


def newest_step(log: Path) -> int:
    """-1 before the first."""
    return max((line["step"] for line in _lines(log)), default=-1)


def batches(log: Path, steps: int) -> list[list[Any]]:
    """Keys of each global batch, in the order of the data; of a step done twice the later one counts.

    The ranks of the launch that did a step last are put together: rank r holds every world-th row from row r.
    """
    found = _by_step(log, "keys", steps)
    return [[parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))] for parts in found]


def losses(log: Path, steps: int) -> list[float]:
    """Loss of each step: the mean over its ranks."""
    return [sum(parts) / len(parts) for parts in _by_step(log, "loss", steps)]


def _by_step(log: Path, field: str, steps: int) -> list[list[Any]]:
    """The field's newest value of each step and rank."""
    newest: dict[int, dict[int, Any]] = defaultdict(dict)
    world: dict[int, int] = {}
    for line in _lines(log):
        if field in line:
            newest[line["step"]][line["rank"]] = line[field]
            if line["rank"] == 0:  # writes in every launch
                world[line["step"]] = line["world"]
    missing = [step for step in range(steps) if any(r not in newest[step] for r in range(world.get(step, 1)))]
    require(not missing, f"{field} of steps {missing[:5]} is missing")
    return [[newest[step][rank] for rank in range(world[step])] for step in range(steps)]


def _lines(log: Path) -> list[dict[str, Any]]:
    """All processes' lines, in the order of writing within each; torn ones belong to steps that do not count."""
    files = sorted(log.parent.glob(f"{log.name}.[0-9]*"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line.endswith("}")]
