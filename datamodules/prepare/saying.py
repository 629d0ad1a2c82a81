"""What the builders print: names come from files that anybody may have made."""

import sys
from typing import TextIO

from fewstep.one_line import printable


def say(line: str, stream: TextIO | None = None, flush: bool = False) -> None:
    """Print one line; no name in it steers a terminal, and none that the stream cannot hold ends the command."""
    stream = stream or sys.stdout
    coding = getattr(stream, "encoding", None) or "utf-8"
    print(printable(line).encode(coding, "backslashreplace").decode(coding), file=stream, flush=flush)
