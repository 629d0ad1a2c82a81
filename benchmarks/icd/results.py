"""Results as lines of JSON, which a run that was stopped goes on with; and the clock that all methods are timed by."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Row = dict[str, Any]
IDENTITY = ("part", "config", "export", "method", "start", "guidance", "split", "num", "seed")  # what a row is about


class Results:
    """path: a .jsonl file; rows that are in it are not measured again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.done = {tuple(row[name] for name in IDENTITY) for row in read_rows([path] if path.exists() else [])}

    def lacks(self, row: Row) -> bool:
        return tuple(row[name] for name in IDENTITY) not in self.done

    def add(self, row: Row, values: dict[str, Tensor], **scalars: float) -> None:
        """values: name -> [N], one of each picture, kept for paired intervals. scalars: of the whole set."""
        kept = {name: [round(value, 6) for value in column.tolist()] for name, column in values.items()}
        means = {name: round(column.double().mean().item(), 6) for name, column in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(row | {"scalars": means | scalars, "values": kept}) + "\n")
        self.done.add(tuple(row[name] for name in IDENTITY))
        print(
            row["part"],
            row["config"],
            row["method"],
            {k: round(v, 4) for k, v in (means | scalars).items()},
            flush=True,
        )


def read_rows(paths: list[Path]) -> list[Row]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def timed(run: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """(answer, seconds): by the clock on a GPU, of this process on the CPU, which other users change little."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    answer = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return answer, clock() - start
