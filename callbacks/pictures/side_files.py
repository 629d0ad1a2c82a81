"""Pictures and tables that a run shows beside its numbers, and does without where the disk refuses them."""

import sys
from pathlib import Path

from fewstep.files.durable import replace_file
from fewstep.one_line import one_line


def write_or_say(path: Path, content: bytes) -> bool:
    """Write a file whole, with its folders; if that fails, say so in one line on stderr, and no number is lost."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        print(f"{path} not written: {one_line(error)}; the run goes on without it", file=sys.stderr)
        return False
    return True
