"""Where the savers of a config write their checkpoints: known before any of them is built."""

import os
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch.callbacks import Checkpoint

from callbacks.checkpoints.newest_checkpoint import checkpoints_in
from callbacks.checkpoints.remote import is_remote
from commands.trusted_code import resolve
from fewstep.files.local_paths import local_path

OPTIONS = ("dirpath", "folder")  # of ModelCheckpoint and LastCheckpoint


def checkpoint_folders(settings: Namespace, run_dir: Path) -> tuple[list[Path], list[str]]:
    """Folders, RUN/checkpoints among them, and addresses of stores to which the callbacks of a parsed config write."""
    root = settings.trainer.default_root_dir or run_dir
    places = [str(run_dir / "checkpoints")]
    for callback in vars(getattr(settings, "callbacks", None) or Namespace()).values():
        kind = resolve(callback.class_path) if callback is not None else None
        if not isinstance(kind, type) or not issubclass(kind, Checkpoint):
            continue
        options = getattr(callback, "init_args", None) or {}
        named = [options.get(name) for name in OPTIONS if name in options]
        places += [str(name or Path(root, "checkpoints")) for name in named]
    stores = [place for place in places if is_remote(local_path(place))]
    folders = [Path(local_path(place)) for place in places if place not in stores]
    return list({os.path.realpath(folder): folder for folder in reversed(folders)}.values())[::-1], stores


def refuse_folders_in_the_way(places: Iterable[Path]) -> None:
    """ValueError in one line for a folder that has the name of a checkpoint: the first one could not be written there.

    One that torch.distributed.checkpoint has written would be lost, and nothing here goes on from it.
    """
    for file in (file for place in places for file in checkpoints_in(place)):
        if file.is_dir():
            raise ValueError(f"{file} is a folder, where a run writes a file; move it away or choose another --run_dir")
