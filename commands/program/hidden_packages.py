"""A folder of the user's that Python finds in the place of one of our packages, whose names are plain words."""

from importlib.util import find_spec
from pathlib import Path

import commands

OURS = ("fewstep", "lightning_modules", "datamodules", "callbacks")


def hidden_package() -> str | None:
    """One line that names the folder and the package; None if all of them lie beside `commands`."""
    home = Path(commands.__path__[0]).resolve().parent
    for name in OURS:
        spec = find_spec(name)  # found, not imported
        if spec is None:
            return f"the package {name} of fewstep is missing; install fewstep again"
        place = Path(next(iter(spec.submodule_search_locations or ()), spec.origin))
        if place.resolve().parent != home:
            return f"{place} hides the package {name} of fewstep; rename it, or take its folder out of PYTHONPATH"
    return None
