"""The installed command `fewstep`, outside of all packages, so that no folder called as one of them can hide it."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

OURS = ("commands", "fewstep", "lightning_modules", "datamodules", "callbacks")


def main() -> int:
    """Run the command line of this process; returns the exit code, 2 after one line where a package is hidden."""
    if hidden := hidden_package():
        print(f"error: {hidden}", file=sys.stderr)
        return 2
    from commands.program.main import main as run

    try:
        code = run()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # as of `fewstep --help | head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def hidden_package() -> str | None:
    """One line that names a folder that Python finds in the place of a package of ours, whose names are plain words."""
    home = Path(__file__).resolve().parent
    for name in OURS:
        spec = find_spec(name)  # found, not imported
        if spec is None:
            return f"the package {name} of fewstep is missing; install fewstep again"
        place = Path(next(iter(spec.submodule_search_locations or ()), spec.origin or name))
        if place.resolve().parent != home:
            return f"{place} hides the package {name} of fewstep; rename it, or take its folder out of PYTHONPATH"
    return None
