"""How far a long build has come: a bar on a terminal, elsewhere a plain line every few seconds."""

import sys
import time
from typing import Any

from datamodules.prepare.saying import say
from fewstep.one_line import printable

SECONDS = 5.0  # between two plain lines


class BuildProgress:
    """Counts samples up to `total`; use as a context manager. `quiet` shows nothing at all."""

    def __init__(self, name: str, total: int, quiet: bool = False):
        self.name, self.total, self.quiet = name, total, quiet
        self.done, self.started = 0, time.monotonic()
        self.next_line = self.started + SECONDS
        self.bar: Any = None

    def __enter__(self) -> "BuildProgress":
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.markup import escape
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.bar.start()
            self.task = self.bar.add_task(escape(printable(self.name)), total=self.total)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, samples: int) -> None:
        """Account for samples that are done."""
        self.done += samples
        if self.bar:
            self.bar.advance(self.task, samples)
        elif not self.quiet and time.monotonic() >= self.next_line:
            rate = self.done / (time.monotonic() - self.started)
            say(f"{self.name}: {self.done} of {self.total} samples, {rate:.0f}/s", sys.stderr, flush=True)
            self.next_line = time.monotonic() + SECONDS
