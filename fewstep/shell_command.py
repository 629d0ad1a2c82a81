"""One command line of a room: parse, run, one line told or one line of what is wrong."""

import argparse
import gc
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module

from fewstep.one_line import one_line, printable

# Bars and hints that transformers prints for every file it reads; set them otherwise to see a long download.
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}


def run_command(parser: argparse.ArgumentParser, commands: str, argv: Sequence[str] | None) -> int:
    """Run COMMANDS[options.command](options) of the module `commands`, imported only then; returns the exit code.

    argv: without the program's name, None for that of the process. FEWSTEP_TRACEBACK shows where a mistake was met.
    """
    began = time.perf_counter()
    options = parser.parse_args(argv)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    gc.disable()  # a sixth of the time that torch and diffusers take to import, here and when a network is loaded
    try:
        told = import_module(commands).COMMANDS[options.command](options)
    except (ValueError, OSError) as error:
        if os.environ.get("FEWSTEP_TRACEBACK"):
            raise
        print(f"error: {printable(one_line(error, 800))}", file=sys.stderr)
        return 2
    finally:
        gc.enable()
    if told:  # "" in a process that another one speaks for
        print(f"{told}  {time.perf_counter() - began:.1f} s in all")
    return 0
