"""Continue a run: find its newest whole checkpoint and compare it with the config."""

import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.table import Table

from callbacks.atomic_checkpoint import read_checkpoint
from callbacks.run_directory import new_run_id, refuse_occupied, shared_run_id

say = rank_zero_only(print)


def locate(settings: Namespace, name: str, fitting: bool) -> tuple[Path, Path | None]:
    """The folder that a run writes to and the checkpoint that it continues, if any.

    settings: run_dir, resume (None, "auto" or a path), trainer.num_nodes and, unless fitting, ckpt_path.
    Errors: ValueError for a folder that is in use, an `auto` that cannot know its folder, a folder given as checkpoint.
    """
    folder = Path(settings.run_dir) if settings.run_dir else None
    if settings.resume and settings.resume != "auto":
        return _continue_from(Path(settings.resume), folder)
    if not fitting and folder is None and settings.ckpt_path:
        return run_directory_of(Path(settings.ckpt_path)), None
    if folder is None:
        shared = shared_run_id(os.environ, settings.trainer.num_nodes)
        if settings.resume and shared is None:
            raise ValueError(f"--resume auto cannot know which run you mean; add --run_dir {_newest_run(name)}")
        folder = Path("runs") / name / (shared or new_run_id())
    if not settings.resume:
        if fitting and getattr(rank_zero_only, "rank", 0) == 0:
            refuse_occupied(folder)
        return folder, None
    checkpoint = newest_checkpoint(folder)
    say(f"resume  {checkpoint}" if checkpoint else f"resume  no checkpoint in {folder}, starting from the beginning")
    return folder, checkpoint


def _continue_from(checkpoint: Path, folder: Path | None) -> tuple[Path, Path]:
    own = run_directory_of(checkpoint)
    if checkpoint.is_dir():
        raise ValueError(f"--resume {checkpoint} is a folder; use --resume auto --run_dir {checkpoint}")
    if folder is not None and folder.absolute() != own.absolute() and getattr(rank_zero_only, "rank", 0) == 0:
        refuse_occupied(folder)
    return folder or own, checkpoint


def _newest_run(name: str) -> Path:
    runs = [p for p in Path("runs", name).glob("*") if p.is_dir()]
    return max(runs, key=lambda run: run.stat().st_mtime_ns, default=Path("runs", name, "ID"))


def run_directory_of(checkpoint: Path) -> Path:
    """RUN for RUN/checkpoints/last.ckpt, else the checkpoint's own folder."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run that can be read; broken ones are skipped with one line each."""
    files = sorted(run_dir.glob("checkpoints/*.ckpt"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for file in files:
        try:
            read_checkpoint(file, lazily=True)
        except ValueError as error:
            say(f"skipped {error}", file=sys.stderr)
        else:
            return file
    return None


def compare(checkpoint: Mapping[str, Any], model: Mapping[str, Any], data: Mapping[str, Any] | None) -> None:
    """Print the hyper-parameters in which a checkpoint and the config differ; the config is what counts.

    model, data: {"class_path": ..., "init_args": {...}} as in the config.
    Errors: ValueError when the checkpoint belongs to another class of model.
    """
    stored = dict(checkpoint.get("hyper_parameters", {}))
    class_path = stored.pop("_class_path", model["class_path"])
    if _class_of(class_path) is not _class_of(model["class_path"]):
        raise ValueError(
            f"the checkpoint holds a {class_path}, the config asks for a {model['class_path']}; "
            "resume with the run's own config or start a new run"
        )
    rows = list(_differences("model", stored, model.get("init_args") or {}))
    stored_data = dict(checkpoint.get("datamodule_hyper_parameters", {}))
    if data and _class_of(stored_data.pop("_class_path", data["class_path"])) is _class_of(data["class_path"]):
        rows += _differences("data", stored_data, data.get("init_args") or {})
    if rows and getattr(rank_zero_only, "rank", 0) == 0:
        table = Table("key", "checkpoint", "now", title="Changed since the checkpoint; the right column is used")
        for row in rows:
            table.add_row(*row)
        Console().print(table)


def _class_of(path: str) -> object:
    """The class behind a path, among modules already imported: a checkpoint must not choose what gets imported."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, path)


def _differences(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(key, old value, new value) of every leaf present in both and unequal."""
    for key in old.keys() & new.keys() - {"_instantiator"}:
        name = f"{prefix}.{key}"
        if isinstance(old[key], Mapping) and isinstance(new[key], Mapping):
            yield from sorted(_differences(name, old[key], new[key]))
        elif old[key] != new[key]:
            yield name, str(old[key]), str(new[key])
