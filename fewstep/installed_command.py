"""Commands in texts for the user: what is `python train.py` in a checkout is `fewstep` where that command runs."""

import re
import sys
from pathlib import Path

PACKAGES = re.compile(r"python -m (?:fewstep|datamodules)\.(\w+)")
SCRIPTS = {"python evaluate.py": "fewstep evaluate", "python train.py": "fewstep"}


def in_its_words(text: str) -> str:
    """The text with the commands of a checkout as those of `fewstep`, if this process was started by that."""
    if Path(sys.argv[0]).stem != "fewstep":
        return text
    for script, command in SCRIPTS.items():
        text = text.replace(script, command)
    return PACKAGES.sub(r"fewstep \1", text)
