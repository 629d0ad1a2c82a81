"""Learn an edit of pictures from two texts, apply it to files, mix several, and audit them, from the shell.

    python -m fewstep.fast_edit learn BASE --edit avatar_glasses --pictures data/avatars64 --lacking glasses=none
    python -m fewstep.fast_edit apply avatar_glasses.safetensors portraits --out edited --strength 0.8
    python -m fewstep.fast_edit mix portraits --edit avatar_glasses.safetensors=0.7 --edit avatar_old.safetensors=0.5

`python -m fewstep.fast_edit COMMAND --help` tells the options; @FILE stands for those that a file holds, one
`option: value` to a line. A mistake is answered with one line and exit code 2.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.fast_edit.command_line.options import (
    add_application,
    add_audit,
    add_base,
    add_judge_clip,
    add_learning,
    add_pictures,
    add_shape,
    attribute,
    weighted_file,
)
from fewstep.installed_command import in_its_words
from fewstep.shell_command import FileOptionsParser, run_command


class _Parser(FileOptionsParser):
    positional = "base"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name); returns the exit code."""
    return run_command(parser(), "fewstep.fast_edit.command_line.commands", argv)


def parser() -> argparse.ArgumentParser:
    description = (__doc__ or "").split("\n")[0]
    parser = _Parser(in_its_words("python -m fewstep.fast_edit"), description=description, fromfile_prefix_chars="@")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{learn,apply,mix,audit,edit}")
    _add_learn(_command(commands, "learn", "the file of an edit, learnt from pictures and two texts"))
    apply = _command(commands, "apply", "pictures edited by a file that `learn` wrote")
    apply.add_argument("edit", type=Path, metavar="EDIT", help="such as avatar_glasses.safetensors")
    _add_applied(apply)
    mix = _command(commands, "mix", "pictures edited by several files of one base at once")
    mix.add_argument(
        "--edit", type=weighted_file, action="append", required=True, metavar="EDIT=WEIGHT",
        help="a file and its share of what the network answers, 1 if not given; the base has the rest",
    )  # fmt: skip
    _add_applied(mix)
    _add_audited(_command(commands, "audit", "an edit judged by signals that it was not learnt from"))
    edit = _command(commands, "edit", "one picture edited by what is learnt from it and two texts")
    add_learning(edit, 20, "; default: the domain's, or the first CLIP on views that it is not trained on")
    edit.add_argument("--picture", type=Path, required=True, metavar="FILE", help="PNG, JPEG, WebP, GIF or BMP")
    edit.add_argument("--out", type=Path, default=Path("edited.png"), help="PNG to write; default %(default)s")
    add_shape(edit)
    add_application(edit, "by default in six steps, with residual and projection", "--apply-encoding")
    edit.set_defaults(name=None, batch_size=1)
    return parser


def _add_learn(learn: argparse.ArgumentParser) -> None:
    add_learning(learn, passes=5)
    add = learn.add_argument
    told = "files, folders or data sets of what shall be edited, without what the edit brings"
    add("--pictures", type=Path, nargs="+", required=True, metavar="PLACE", help=told)
    told = "take only pictures whose NAME.json has this among its attributes, such as glasses=none"
    add("--lacking", type=attribute, action="append", default=[], metavar="ATTRIBUTE=VALUE", help=told)
    add("--num-pictures", type=int, default=50, metavar="N", help="that are learnt from; default %(default)s")
    told = "the last ones, for the audit, at least 16; default %(default)s"
    add("--num-held-out", type=int, default=32, metavar="N", help=told)
    add("--batch-size", type=int, default=5, metavar="N", help="default %(default)s")
    add("--name", help="of the edit, if not the dictionary's")
    add("--out", type=Path, metavar="EDIT", help="file to write; default NAME.safetensors")
    add("--half", action="store_true", help="store float16")
    add("--force", action="store_true", help="save an edit that fails its audit, too, and audit few pictures")
    add_shape(learn, whole=False)
    told = "kept in the file; by default in six steps, with residual and projection"
    add_application(learn, told, "--apply-encoding")
    add_audit(learn, asked=False)


def _add_audited(audit: argparse.ArgumentParser) -> None:
    add = audit.add_argument
    add("edit", type=Path, metavar="EDIT", help="such as avatar_glasses.safetensors")
    add_pictures(audit)
    add("--num-pictures", type=int, default=128, metavar="N", help="at most, at least 16; default %(default)s")
    add("--force", action="store_true", help="audit few pictures, too")
    add("--clip", action="append", default=[], metavar="CLIP", help="that it was learnt from, if its file is wrong")
    add_judge_clip(audit, "another one, if not that of its file")
    add("--sheet", type=Path, metavar="FILE", help="contact sheet to write; default EDIT-audit.png")
    add_base(audit)
    add_shape(audit, whole=False)
    add_application(audit)
    add_audit(audit)


def _add_applied(command: argparse.ArgumentParser) -> None:
    add_pictures(command)
    command.add_argument("--out", type=Path, default=Path("edited"), help="folder; default %(default)s")
    command.add_argument("--batch-size", type=int, default=32, metavar="N", help="default %(default)s")
    add_base(command)
    add_shape(command)
    add_application(command)


def _command(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=what, description=what[0].upper() + what[1:] + "."
    )
    command.add_argument("--seed", type=int, default=0, help="of the noise; default %(default)s")
    command.add_argument("--device", default="cpu", help="such as cpu, cuda or mps; default %(default)s")
    command.add_argument("--overwrite", action="store_true", help="replace files; otherwise NAME-2 is written")
    return command


if __name__ == "__main__":
    sys.exit(main())
