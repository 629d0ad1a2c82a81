"""Draw pictures with a student whose teacher improves only what needs it, and calibrate how much that is.

    python -m fewstep.collaboration calibrate RUN/export --oracle clip=assets/clip_avatars --prompts known.txt
    python -m fewstep.collaboration draw RUN/export --oracle clip=assets/clip_avatars --prompts new.txt --mean-passes 10

`python -m fewstep.collaboration COMMAND --help` tells the options. A mistake is answered with one line and exit code 2.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.picture_size import size_argument
from fewstep.shell_command import run_command

SOLVERS = ("dpm_solver", "ddim", "unipc", "diffusers_dpm_solver")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name); returns the exit code."""
    return run_command(parser(), "fewstep.collaboration.commands", argv)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m fewstep.collaboration", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="{calibrate,draw}")
    calibrate = _command(commands, "calibrate", "the oracle's scores of drafts for prompts like those to come")
    calibrate.add_argument("--out", type=Path, default=Path("calibration.json"), help="default %(default)s")
    _add_policy(calibrate)
    draw = _command(commands, "draw", "a picture of every prompt, improved by the teacher where the oracle asks for it")
    draw.add_argument("--out", type=Path, default=Path("drawn"), help="folder; a draw that was killed goes on in it")
    budget = draw.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        "--mean-passes", type=float, metavar="N", help="of the teacher's network for a picture, on average"
    )
    budget.add_argument("--k", type=float, metavar="PERCENT", help="of drafts that the teacher improves, 0 to 100")
    draw.add_argument(
        "--calibration", type=Path, default=Path("calibration.json"), metavar="FILE", help="of `calibrate`"
    )
    return parser


def _command(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
    add = command.add_argument
    add("student", help="export of a collaboration or ICD run, or a pipeline that draws in few steps")
    add(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help="a .txt file, one to a line, or .jsonl with `prompt`",
    )
    add("--oracle", default="image_reward", help="image_reward, clip, attributes=FOLDER, ..; default %(default)s")
    add("--teacher", help="pipeline, by folder or hub id, if not the one of the student's training")
    add("--student-steps", type=int, default=4, metavar="N", help="default %(default)s")
    add("--student-scale", type=float, metavar="W", help="guidance; the largest that the student knows if not given")
    add("--teacher-steps", type=int, default=10, metavar="N", help="default %(default)s")
    add("--teacher-scale", type=float, default=8.0, metavar="W", help="guidance, 1 is none; default %(default)s")
    add("--solver", choices=SOLVERS, default=SOLVERS[0], help="of the teacher; default %(default)s")
    add("--seed", type=int, default=0, help="of the noise; default %(default)s")
    add("--batch-size", type=int, default=32, metavar="N", help="default %(default)s")
    add("--device", default="cpu", help="such as cpu, cuda or mps; default %(default)s")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the networks")
    add("--size", type=size_argument, help="of pictures in pixels, if not that of training: 512, or 512x768")
    add("--overwrite", action="store_true", help="replace what stands at --out")
    return command


def _add_policy(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--repair",
        choices=("refine", "regenerate"),
        default="refine",
        help="what the teacher does; default %(default)s",
    )
    rollback = command.add_mutually_exclusive_group()
    told = "how far a draft is taken back, inside 0 and 1: as variance of noise; default 0.5"
    rollback.add_argument("--rollback-variance", type=float, metavar="SIGMA", help=told)
    rollback.add_argument("--rollback-time", type=float, metavar="T", help="or as time, diffusers' strength")
    add("--drafts", type=int, default=1, metavar="N", help="of the student for a prompt at most; default %(default)s")
    add("--good-enough", type=float, metavar="SCORE", help="of a draft, above which no further one is drawn")
    add("--keep-best", action="store_true", help="take the draft where the oracle finds the teacher's picture worse")


if __name__ == "__main__":
    sys.exit(main())
