"""Continue a run: find its folder and checkpoint, and compare the checkpoint with the config."""

import os
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from callbacks.checkpoints.newest_checkpoint import checkpoints_in, newest_checkpoint
from callbacks.checkpoints.printed_commands import resume_flags
from callbacks.checkpoints.reading import require_training_state
from callbacks.checkpoints.remote import is_remote
from commands.nearest_runs import is_run, refuse_mistyped
from commands.train import run_lock
from commands.train.checkpoint_folders import checkpoint_folders, refuse_folders_in_the_way
from commands.train.run_directory import new_run_id, refuse_occupied, shared_run_id
from commands.trusted_code import imported
from fewstep.files.plain_reader import shown
from fewstep.one_line import printable

say = rank_zero_only(print)


def locate(settings: Namespace, name: str, fitting: bool) -> tuple[Path, Path | str | None]:
    """The folder that a run writes to and the checkpoint that it continues, if any; a string if that is remote.

    settings: run_dir, resume (None, "auto", a path or an address), dry_run, trainer.num_nodes and, unless fitting,
    ckpt_path.
    Errors: ValueError for a folder that is in use or not empty, an `auto` that cannot know its folder or whose folder
    is likely to be mistyped or holds checkpoints of which none is of use, a folder given as checkpoint or in the place
    of one, and unless fitting, for any resume: it would be measured untrained. OSError for a disk that does not answer.
    """
    if settings.run_dir and str(settings.run_dir).startswith("-"):
        raise ValueError(
            f"--run_dir {settings.run_dir}: a name that begins so looks like a flag; give ./{settings.run_dir}"
        )
    if settings.resume and not fitting:
        given = "RUN/checkpoints/best.ckpt" if settings.resume == "auto" else settings.resume
        raise ValueError(
            f"--resume {settings.resume} goes on with a training; to use its weights: --ckpt_path {quote(given)}"
        )
    folder = Path(settings.run_dir) if settings.run_dir else None
    remote = bool(settings.resume) and is_remote(settings.resume)
    if settings.resume and settings.resume != "auto" and not remote:
        folder, checkpoint = _continue_from(Path(settings.resume), folder)
        refuse_folders_in_the_way(checkpoint_folders(settings, folder)[0])
        return folder, checkpoint
    if not fitting and folder is None and settings.ckpt_path:
        return run_directory_of(Path(settings.ckpt_path)), None
    if folder is None:
        shared = shared_run_id(os.environ, settings.trainer.num_nodes)
        if settings.resume == "auto" and shared is None:
            raise ValueError(
                f"--resume auto cannot know which run you mean; add --run_dir {quote(str(_newest_run(name)))}"
            )
        folder = Path("runs") / name / (shared or new_run_id())
    first = fitting and getattr(rank_zero_only, "rank", 0) == 0
    if not settings.resume or remote:
        if first:
            run_lock.refuse_in_use(folder)
            refuse_occupied(folder)
            _refuse_others(checkpoint_folders(settings, folder)[0])
        return folder, settings.resume
    if first:
        refuse_mistyped(folder)
        if not settings.dry_run and folder.is_dir() and any(folder.iterdir()):
            run_lock.hold(folder)  # before its newest checkpoint is looked for
    return folder, _newest(settings, folder)


def _newest(settings: Namespace, folder: Path) -> Path | None:
    """The newest checkpoint in any of the folders that this config's savers write to; says which, if any.

    Errors: ValueError in one line where it would replace checkpoints that it cannot go on from.
    """
    local, stores = checkpoint_folders(settings, folder)
    refuse_folders_in_the_way(local)
    if not is_run(folder):
        _refuse_others(local)
    checkpoint = newest_checkpoint(local)
    whole = checkpoint is not None and checkpoint.name.startswith("last")  # a best one may be of long ago
    if stores and not whole and is_run(folder):
        raise ValueError(
            f"checkpoints of this run go to {stores[0]}, where --resume auto does not look; name the newest one: "
            f"--resume {quote(stores[0].rstrip('/') + '/last.ckpt')} --run_dir NEW"
        )
    say(f"resume  {checkpoint}" if checkpoint else f"resume  no checkpoint in {folder}, starting from the beginning")
    return checkpoint


def _refuse_others(places: Iterable[Path]) -> None:
    """ValueError in one line if a run that begins would write its checkpoints among those of another one."""
    for place in places:
        if others := checkpoints_in(place):
            raise ValueError(
                f"{others[-1]} is of another run, and this one would write into the same folder, {place}: give it one "
                f"of its own, or go on from there with --resume {quote(str(others[-1]))}"
            )


def _continue_from(checkpoint: Path, folder: Path | None) -> tuple[Path, Path]:
    own = run_directory_of(checkpoint)
    if checkpoint.is_dir():
        raise ValueError(f"--resume {checkpoint} is a folder; use {resume_flags(checkpoint)}")
    if not checkpoint.suffix and not checkpoint.exists():
        raise ValueError(f"--resume {checkpoint}: give auto, or a checkpoint such as RUN/checkpoints/last.ckpt")
    if folder is None and own == checkpoint.parent and checkpoint.exists():
        raise ValueError(f"--resume {checkpoint} is in no RUN/checkpoints; add --run_dir with a folder for this run")
    if folder is not None and folder.absolute() != own.absolute() and getattr(rank_zero_only, "rank", 0) == 0:
        refuse_occupied(folder)
    return folder or own, checkpoint


def _newest_run(name: str) -> Path:
    runs = [p for p in Path("runs", name).glob("*") if p.is_dir()]
    return max(runs, key=lambda run: run.stat().st_mtime_ns, default=Path("runs", name, "ID"))


def run_directory_of(checkpoint: Path | str) -> Path:
    """RUN for RUN/checkpoints/last.ckpt, else the checkpoint's own folder; for an address no folder that exists."""
    folder = Path(checkpoint).parent
    if folder == Path() and Path.cwd().name == "checkpoints":  # named from within
        return Path.cwd().parent
    return folder.parent if folder.name == "checkpoints" else folder


def compare(checkpoint: Mapping[str, Any], model: Mapping[str, Any], data: Mapping[str, Any] | None) -> None:
    """Print the hyper-parameters in which a checkpoint and the config differ; the config is what counts.

    model, data: {"class_path": ..., "init_args": {...}} as in the config.
    Errors: ValueError when the checkpoint belongs to another class of model or of data, to another order of the data,
    or holds weights only.
    """
    stored = dict(checkpoint.get("hyper_parameters", {}))
    class_path = stored.pop("_class_path", model["class_path"])
    if _class_of(class_path) is not _class_of(model["class_path"]):
        raise ValueError(
            f"the checkpoint holds a {class_path}, the config asks for a {model['class_path']}; "
            "resume with the run's own config or start a new run"
        )
    require_training_state(checkpoint)
    rows = list(_differences("model", stored, model.get("init_args") or {}))
    if data:
        stored_data = dict(checkpoint.get("datamodule_hyper_parameters", {}))
        _require_same_data(stored_data.pop("_class_path", data["class_path"]), data["class_path"])
        rows += _differences("data", stored_data, data.get("init_args") or {})
        _require_same_order(stored_data, data.get("init_args") or {})
    if rows and getattr(rank_zero_only, "rank", 0) == 0:
        table = Table("key", "checkpoint", "now", title="Changed since the checkpoint; the right column is used")
        for row in rows:
            table.add_row(*map(escape, row))
        Console().print(table)


def _require_same_data(stored: str, now: str) -> None:
    if _class_of(stored) is not _class_of(now):
        raise ValueError(
            f"the checkpoint was trained on a {stored}, the config asks for a {now}; "
            "resume with the run's own data or start a new run"
        )


def _require_same_order(stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """The position in the data is one in the order that this seed gives."""
    if "seed" in stored and not _equal(stored["seed"], now.get("seed", stored["seed"])):
        seed = shown(stored["seed"])
        raise ValueError(
            f"data.seed is {now['seed']}, but the checkpoint's run used {seed}: samples would be lost and "
            f"repeated; give --data.seed {quote(seed)} or start a new run"
        )


def _class_of(path: str) -> object:
    return imported(path) or path


def _equal(old: Any, new: Any) -> bool:
    try:
        return bool(old == new)
    except (RuntimeError, RecursionError):  # tensors of several numbers, lists in lists in lists
        return False


def _differences(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(key, old value, new value) of every leaf present in both and unequal."""
    for key in old.keys() & new.keys() - {"_instantiator"}:
        name = f"{prefix}.{key}"
        if isinstance(old[key], Mapping) and isinstance(new[key], Mapping):
            yield from sorted(_differences(name, old[key], new[key]))
        elif not _equal(old[key], new[key]):
            yield printable(name), printable(str(old[key])[:200]), str(new[key])
