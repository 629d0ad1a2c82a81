"""From what ended a command to an exit code and, where that is enough, one line on stderr instead of a traceback."""

import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.care.stop_signals import Stopped
from callbacks.checkpoints.reading import OLDER
from commands.config_errors import say_error
from commands.train.said_once import rank_0_says
from fewstep.installed_command import in_its_words
from fewstep.one_line import one_line, printable

FAILED, USER_MISTAKE = 1, 2  # those of a process that was asked to stop: stop_signals.py
RESTORING = {"_restore_modules_and_callbacks", "restore_training_state", "_load_combined_loader_states"}
UNUSABLE = "the checkpoint holds values that this run cannot take over"


def report(error: BaseException, command: Any) -> int:
    """Say what happened in one line and return the exit code; raises again what needs its traceback.

    command: the CommandLine, None if it could not be built. An error may bring a `line` that says all.
    """
    if isinstance(error, Stopped):
        return _say(error.line if _rank() == 0 else "", int(error.code or FAILED))
    if os.environ.get("FEWSTEP_TRACEBACK"):
        raise error
    if line := getattr(error, "line", None):
        return _say(f"error{_on_rank()}: {line}", FAILED)
    if command is not None and command.watch is not None and (lost := command.watch.explain(error)):
        return _say(*lost)
    if not _mendable(error, command):
        if command is None or command.run_directory.started or not while_restoring(error):
            raise error
        what = f"{type(error).__name__}: {one_line(str(error), 160)}"
        return _say(f"error{_on_rank()}: {UNUSABLE} ({what}); {OLDER}", USER_MISTAKE)
    line = say_error(error) + _other_accelerator(error)
    return _say("" if rank_0_says(line, _rank()) else f"error{_on_rank()}: {line}", USER_MISTAKE)


def _mendable(error: BaseException, command: Any) -> bool:
    """Whether one line will do: everything in a dry run; else what the user's files can cause until step 1 is done."""
    if command is not None and command.settings.dry_run:
        return True
    if command is not None and command.run_directory.started:
        return False
    kinds = (ValueError, OSError, ImportError, MisconfigurationException)
    return isinstance(error, kinds) or "loading state_dict" in str(error) or _refused_by_lightning(error)


def _other_accelerator(error: BaseException) -> str:
    """The remedy that Lightning leaves out where a machine has no such device."""
    lacking = re.search(r"No supported gpu backend|accelerator is not available", str(error))
    wrong = lacking and isinstance(error, MisconfigurationException)
    return "; this machine has none: --trainer.accelerator cpu" if wrong else ""


def _refused_by_lightning(error: BaseException) -> bool:
    """Whether this is a sentence of Lightning's about an option, of a kind that slips of its code have, too."""
    last = traceback.extract_tb(error.__traceback__)[-1:] if isinstance(error, AttributeError | TypeError) else []
    return any("lightning" in Path(frame.filename).parts and (frame.line or "").startswith("raise") for frame in last)


def while_restoring(error: BaseException) -> bool:
    """Whether Lightning raised this while it gave a checkpoint's values back to the parts of a run."""
    names = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
    return isinstance(error, Exception) and bool(names & RESTORING)


def _say(line: str, code: int) -> int:
    """Where the line quotes a file, this one's control characters do not reach the terminal."""
    if line:
        print("\n".join(map(printable, in_its_words(line).split("\n"))), file=sys.stderr)
    return code


def _on_rank() -> str:
    return f" on rank {_rank()}" if _rank() else ""


def _rank() -> int:
    return getattr(rank_zero_only, "rank", 0)
