"""OUT.partial: where an image folder is built, and where the same build goes on after an interruption."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from fewstep.files.durable import replace_file
from fewstep.files.plain_json import read_json


def plan_of(
    keys: Mapping[str, Sequence[str]], command: str, samples_per_shard: int, sources: Iterable[Path]
) -> dict[str, object]:
    """What the bytes of a build depend on; a later call goes on with it only if all of it is the same."""
    digests = {split: hashlib.sha256("\n".join(some).encode()).hexdigest() for split, some in keys.items()}
    plan = {"command": hashlib.sha256(command.encode()).hexdigest(), "keys": digests}
    return plan | {"samples_per_shard": samples_per_shard, "sources": state_of(sources)}


def state_of(sources: Iterable[Path]) -> str:
    """A digest of the path, size and time of every file, also of those in folders."""
    digest = hashlib.sha256()
    for source in sources:
        for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
            if file.is_file():
                about = file.stat()
                digest.update(os.fsencode(f"{file.absolute()}\0{about.st_size}\0{about.st_mtime_ns}\0"))
    return digest.hexdigest()


@contextmanager
def staging_folder(target: Path, plan: dict[str, object]) -> Iterator[Path]:
    """OUT.partial, new or left by the same plan, while no other process writes there."""
    staging = target.with_name(f"{target.name}.partial")
    staging.mkdir(parents=True, exist_ok=True)
    handle = os.open(staging, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{staging}: another process is writing there; wait for it, or choose another folder"
            ) from None
        if not any(staging.iterdir()):
            replace_file(staging / "plan.json", json.dumps(plan).encode())
        elif (left := left_plan(staging)) != plan:
            raise ValueError(f"{staging} {difference(left, plan)}")
        yield staging
    finally:
        os.close(handle)  # and with it the lock, also when the process is killed


def left_plan(staging: Path) -> dict:
    """The plan of an interrupted build; empty if there is none."""
    try:
        plan = read_json(staging / "plan.json")
    except (OSError, ValueError):
        return {}
    return plan if isinstance(plan, dict) else {}


def difference(left: dict, plan: dict[str, object]) -> str:
    """Why a build cannot go on with what another one left, and the remedy."""
    if not left:
        return "was not left by a build; move it away, or name another --out"
    same = left | {"sources": plan["sources"]} == plan
    changed = "whose sources have changed since" if same else "with other samples or options"
    return f"is left of a build {changed}; delete it to start anew"
