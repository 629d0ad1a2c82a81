"""The commands of `python -m fewstep.fast_edit` by name."""

import argparse
from collections.abc import Callable, Mapping

from fewstep.fast_edit.command_line.application import applied
from fewstep.fast_edit.command_line.auditing import audited
from fewstep.fast_edit.command_line.learned import learned
from fewstep.fast_edit.command_line.single import single


def apply(options: argparse.Namespace) -> str:
    return applied(options, {options.edit: 1.0})


def mix(options: argparse.Namespace) -> str:
    files = dict(options.edit)
    if len(files) < len(options.edit):
        raise ValueError("an --edit is given twice; give each file once, with its whole weight")
    return applied(options, files)


COMMANDS: Mapping[str, Callable[[argparse.Namespace], str]] = {
    "learn": learned, "apply": apply, "mix": mix, "audit": audited, "edit": single
}  # fmt: skip
