"""One command line of a room: parse, run, one line told or one line of what is wrong."""

import argparse
import gc
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module

from fewstep.installed_command import in_its_words
from fewstep.one_line import one_line, printable

# Bars and hints that transformers prints for every file it reads; set them otherwise to see a long download.
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}


class VerdictError(Exception):
    """A command has done its work, and its verdict is no: told as any other answer, with exit code 1."""


class FileOptionsParser(argparse.ArgumentParser):
    """Takes @FILE for options that are used again: YAML of one `option: value` to a line.

    positional: what stands before all options, and is written in a file under this name.
    """

    positional = ""

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        name, colon, value = (part.strip() for part in arg_line.split(" #")[0].partition(":"))
        if not name or name.startswith("#"):
            return []
        if not colon or not value:
            self.error(f"{arg_line.strip()[:80]!r} in the file of options is no `option: value`")
        return [value] if name == self.positional else [f"--{name}={value}"]


def run_command(parser: argparse.ArgumentParser, commands: str, argv: Sequence[str] | None) -> int:
    """Run COMMANDS[options.command](options) of the module `commands`, imported only then; returns the exit code.

    argv: without the program's name, None for that of the process. FEWSTEP_TRACEBACK shows where a mistake was met.
    """
    began, code = time.perf_counter(), 0
    options = parser.parse_args(argv)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    gc.disable()  # a sixth of the time that torch and diffusers take to import, here and when a network is loaded
    try:
        told = import_module(commands).COMMANDS[options.command](options)
    except VerdictError as answer:
        told, code = printable(str(answer)), 1
    except (ValueError, OSError) as error:
        if os.environ.get("FEWSTEP_TRACEBACK"):
            raise
        print(f"error: {printable(in_its_words(one_line(error, 800)))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped by SIGINT", file=sys.stderr)
        return 130
    finally:
        gc.enable()
    if told:  # "" in a process that another one speaks for
        print(f"{told}  {time.perf_counter() - began:.1f} s in all")
    return code
