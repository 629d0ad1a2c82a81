"""What train.py does before torch is imported: help, the version, and signals that end it at once."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path


def end_at_signals() -> None:
    """Nothing is to be saved yet; once the imports are done, callbacks/care/stop_signals.py takes over."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: os._exit(143))
    signal.signal(signal.SIGINT, _interrupted)


def _interrupted(*_: object) -> None:
    sys.stderr.write("stopped by SIGINT before anything was begun\n")
    sys.stderr.flush()
    os._exit(130)


def start(argv: Sequence[str] | None, usage: str | None, default_config: Path) -> int:
    """Run one command line, that of the process if None; returns the exit code. The rest: commands.train.command_line.

    usage: what --help prints.
    """
    leaving, argv = argv is None, sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage)
        return 0
    if argv[0] == "--version":
        from fewstep import __version__

        print(f"fewstep {__version__}")
        return 0

    import datamodules  # noqa: F401  # a class without its package is looked up among those that are imported
    import lightning_modules  # noqa: F401

    if argv[0] == "export":
        from commands.train.export import run as export

        return export(argv[1:])
    from commands.train.command_line import run

    return run(argv, default_config, leaving)
