"""Short names for runs: what their configs differ in, else where their checkpoints lie."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from commands.report.comparison import by_task

MOST_KEYS = 4  # in a name
PARTS = ("model", "data", "seed_everything")  # of a config, in the order of a name
PASSED_OVER = ("num_threads", "run_dir", "trainer", "callbacks", "wandb", "ckpt_path", "batch_size", "path")


def settings(content: Mapping[str, Any]) -> dict[str, str]:
    """The values of a run's config that may tell it from another, by dotted key: those of model, data and seed."""
    return {
        key: "null" if value is None else str(value)
        for part in PARTS
        for key, value in _flat(part, content.get(part))
        if not any(word in PASSED_OVER for word in key.split("."))
    }


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{key}.{name}", inner)
    else:
        yield key, value


def run_labels(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """By the few settings that tell the runs of each task apart; else those of their checkpoints, with the inference
    steps where these alone do.
    """
    names = labels([run["checkpoint"] for run in runs])
    steps = [run.get("sampling", {}).get("steps") for run in runs]
    pairs = zip(names, steps, strict=True)
    names = [f"{n}, {s} step{'s' * (s > 1)}" if s and names.count(n) > 1 else n for n, s in pairs]
    told = list(names)
    for members in by_task(runs):
        for number, name in zip(members, _by_settings([runs[i] for i in members]), strict=False):
            told[number] = name
    return told if len(set(told)) == len(told) else names


def _by_settings(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """[] where settings do not tell the runs apart, or too many do."""
    known = [run.get("settings") or {} for run in runs]
    if not all(known):
        return []
    everything = {key: None for each in known for key in each}
    keys = [key for key in everything if len({each.get(key) for each in known}) > 1]
    keys.sort(key=lambda key: PARTS.index(key.partition(".")[0]))
    if not 1 <= len(keys) <= MOST_KEYS:
        return []
    found = [", ".join(_word(key, each[key], keys) for key in keys if key in each) for each in known]
    return found if len(set(found)) == len(found) and all(found) else []


def _word(key: str, value: str, keys: Sequence[str]) -> str:
    if key.endswith("class_path"):
        return value.rpartition(".")[2]
    parts = [part for part in key.split(".") if part != "init_args"]
    same = sum(other.rpartition(".")[2] == parts[-1] for other in keys) > 1
    name = ".".join(parts[-2:] if same else parts[-1:])
    return f"{'seed' if name == 'seed_everything' else name} {value}"


def labels(checkpoints: Sequence[str]) -> list[str]:
    """Short names for checkpoint paths: what is left without the folders and the file name that all of them share."""
    absolute = [Path(str(Path(c).absolute()).removesuffix(".ckpt")) for c in checkpoints]
    paths = [[part for part in path.parts if part != "checkpoints"] for path in absolute]
    if len(set(map(tuple, paths))) == 1:
        return ["/".join(path[-2:]) for path in paths]
    head = min(_num_shared(paths), min(map(len, paths)) - 1)
    paths = [path[head:] for path in paths]
    tail = _num_shared([path[:0:-1] for path in paths])  # never the first part
    return ["/".join(path[: len(path) - tail]) for path in paths]


def _num_shared(paths: Sequence[Sequence[str]]) -> int:
    """How many parts at the front all paths have in common."""
    return len(list(takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))))


def shorten(label: str, length: int = 26) -> str:
    """Both ends of a long label."""
    half = length // 2
    return label if len(label) <= length else f"{label[:half]}…{label[-half + 1 :]}"
