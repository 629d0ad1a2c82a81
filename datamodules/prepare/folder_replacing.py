"""Put a new shard folder in the place of an old one, and delete nothing that was not asked to go."""

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from datamodules.vector_shards import parse_index
from fewstep.files.durable import sync_folder
from fewstep.files.places import require_writable
from fewstep.files.plain_json import small_file

# What stands beside the shards that an index names: texts, and what an interrupted build had not yet deleted.
BESIDE = re.compile(
    r"index\.json|README\.md|NOTICE|LICENSE|\.DS_Store|Thumbs\.db|plan\.json(\.tmp)?"
    r"|\w+-\d{6,}\.(tar\.tmp|done\.json(\.tmp)?)"
    r"|\.(index\.json|plan\.json|\w+-\d{6,}\.(done\.json|offsets\.npz))\.tmp\.\d+"
)
SHEET = "datamodules.prepare check"  # the `Software` of a contact sheet's PNG


def refuse_to_lose(target: Path, overwrite: bool | None) -> None:
    """ValueError if `target` cannot be written, or if that would delete anything that was not asked to go.

    overwrite: None for a command that has no such option.

    --overwrite takes the place of a data set as one of these builds left it; whatever else lies there, sources
    included, is not its to delete.
    """
    require_replaceable(target)
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        remedy = "move them away" if overwrite is None else "add --overwrite to replace the whole folder"
        raise ValueError(f"{target} already holds files; {remedy}, or name another")
    if not (target / "index.json").is_file():
        raise ValueError(
            f"{target} holds files but no index.json, so it is not a shard folder; --overwrite leaves it alone"
        )
    if others := strangers(target):
        raise ValueError(
            f"{target} holds {others[0]!a}, which is no part of its data set; --overwrite leaves the folder alone: "
            "move that away, or name another"
        )


def require_replaceable(target: Path) -> None:
    """ValueError in one line unless a new folder can be made beside this one, and take its place by a renaming."""
    folder = real_folder(target)
    if folder.name in ("", "..") or (folder.is_dir() and os.path.ismount(folder)):
        raise ValueError(f"--out {target} cannot be put in its place as a whole; name a folder in it, by its own name")
    require_writable(folder.parent if folder.is_dir() else folder)
    try:
        with suppress(FileNotFoundError):
            os.stat(aside(folder))
    except OSError as error:
        raise ValueError(f"--out {target}: {error.strerror}; name another folder") from None


def strangers(folder: Path) -> list[str]:
    """What lies in a shard folder and was not put there by prepare; ValueError if its index.json is of another kind."""
    try:
        index = parse_index(small_file(folder / "index.json"), str(folder))
    except ValueError as error:
        raise ValueError(f"{error}; --overwrite leaves the folder alone") from None
    entries = [shard for split in index["splits"].values() for shard in split["shards"]]
    named = {str(entry[what]) for entry in entries for what in ("file", "offsets") if what in entry}
    return sorted(
        path.name
        for path in folder.iterdir()
        if not path.is_file() or not (path.name in named or BESIDE.fullmatch(path.name) or is_sheet(path))
    )


def is_sheet(path: Path) -> bool:
    """Whether this is a contact sheet that `prepare check` drew."""
    from PIL import Image

    if path.suffix != ".png":
        return False
    try:
        with Image.open(path) as picture:
            return picture.info.get("Software") == SHEET
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def real_folder(out: str | Path) -> Path:
    """The folder that is written: of a link what it leads to, so that the link stays."""
    target = Path(out)
    return target.resolve() if target.is_symlink() and target.exists() else target


def aside(target: Path) -> Path:
    """Where the old folder lies while the new one takes its place."""
    return target.with_name(f"{target.name}.tmp.{os.getpid()}.old")


def replace_folder(staging: Path, target: Path, overwrite: bool | None) -> None:
    """Put `staging` in the place of `target`; the old folder is deleted only once the new one stands."""
    refuse_to_lose(target, overwrite)  # again: a build takes hours, in which files may have come
    old = aside(target)
    sync_folder(staging)
    if target.exists():
        target.rename(old)
    try:
        staging.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)
