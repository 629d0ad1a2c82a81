"""The commands of `python -m fewstep.fast_edit` by name."""

import argparse
from collections.abc import Callable, Mapping

from fewstep.fast_edit.command_line.application import apply_to_files
from fewstep.fast_edit.command_line.auditing import audit_file
from fewstep.fast_edit.command_line.learn import learn_to_file
from fewstep.fast_edit.command_line.single import edit_picture


def apply(options: argparse.Namespace) -> str:
    return apply_to_files(options, {options.edit: 1.0})


def mix(options: argparse.Namespace) -> str:
    files = dict(options.edit)
    if len(files) < len(options.edit):
        raise ValueError("an --edit is given twice; give each file once, with its whole weight")
    return apply_to_files(options, files)


COMMANDS: Mapping[str, Callable[[argparse.Namespace], str]] = {
    "learn": learn_to_file, "apply": apply, "mix": mix, "audit": audit_file, "edit": edit_picture
}  # fmt: skip
