"""Which batches training stumbled over: one JSON line each in RUN/logs/bad_batches.jsonl."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor


def keys_of(batch: Any) -> list[str]:
    """The sample keys of a batch, its `key` or `__key__`; [] where it has none."""
    if not isinstance(batch, Mapping):
        return []
    keys = batch.get("key", batch.get("__key__", ()))
    return [str(key) for key in keys] if isinstance(keys, list | tuple) else []


def path_of(trainer: Trainer) -> Path:
    """This rank's file: two processes of one machine, or of two, never write to the same."""
    rank = f".rank{trainer.global_rank}" if trainer.global_rank else ""
    return Path(trainer.default_root_dir, "logs", f"bad_batches{rank}.jsonl")


def record(trainer: Trainer, entry: Mapping[str, Any]) -> None:
    """Append a line; numbers that JSON does not know are written as "nan" and "inf". Never stops a run."""
    if trainer.fast_dev_run:
        return
    try:
        path = path_of(trainer)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_plain(entry), ensure_ascii=False) + "\n")
    except OSError as error:
        print(f"bad batch of step {entry.get('step')} not recorded: {error}", file=sys.stderr)


def shown(keys: Sequence[str]) -> str:
    """`keys a, b, c and 13 more`, or where there are none, `a batch without keys`."""
    if not keys:
        return "a batch without keys"
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"keys {', '.join(keys[:3])}{more}"


def logged(trainer: Trainer) -> dict[str, Tensor]:
    """What `training_step` has logged last, by key. Lightning shows callbacks the same mixed with everything older."""
    entries = {key: entry for key, entry in (trainer._results or {}).items() if key.startswith("training_step.")}
    values = {entry.meta.name: entry._forward_cache for entry in entries.values()}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
