"""Files of the repository's root that come with the code: in a wheel they lie in commands/packaged."""

import os
from pathlib import Path, PurePath

IN_WHEEL = (Path(__file__).parent / "packaged" / "configs").is_dir()
ROOT = Path(__file__).parent / "packaged" if IN_WHEEL else Path(__file__).parents[1]


def config_file(name: str) -> str:
    """`name` where there is such a file, else the config that comes with the code under this name, else `name` again.

    name: METHOD/RUN as config_names() has it, also with .yaml behind it and configs/ before it.
    """
    inside = PurePath(name.removeprefix("configs/"))
    if os.path.exists(name) or inside.is_absolute() or ".." in inside.parts:
        return name
    ours = str(ROOT / "configs" / inside)
    return next((file for file in (ours, f"{ours}.yaml") if os.path.isfile(file)), name)


def hides_ours(name: str) -> bool:
    """Whether a config of the user's, in a folder, has the name of one that comes along in a wheel."""
    inside = PurePath(name.removeprefix("configs/"))
    ours = [ROOT / "configs" / f"{inside}{end}" for end in ("", ".yaml")]
    relative = len(inside.parts) > 1 and not inside.is_absolute() and ".." not in inside.parts
    return IN_WHEEL and relative and os.path.isfile(name) and any(file.is_file() for file in ours)


def config_names(like: str = "") -> list[str]:
    """METHOD/RUN of every config that comes with the code; with configs/ and .yaml where `like` is written so."""
    head, tail = "configs/" * like.startswith("configs/"), ".yaml" * like.endswith(".yaml")
    files = sorted((ROOT / "configs").glob("*/*.yaml"))
    return [f"{head}{file.parent.name}/{file.stem}{tail}" for file in files]
