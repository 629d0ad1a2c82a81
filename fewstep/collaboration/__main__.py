"""Draw pictures with a student whose teacher improves only what needs it, and calibrate how much that is.

    python -m fewstep.collaboration calibrate RUN/export --oracle clip=assets/clip_avatars --prompts known.txt
    python -m fewstep.collaboration draw RUN/export --oracle clip=assets/clip_avatars --prompts new.txt --mean-passes 10

`python -m fewstep.collaboration COMMAND --help` tells the options; @FILE stands for those that a file holds, as
configs/collaboration/sdxl_lcm.yaml does. A mistake is answered with one line and exit code 2.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.installed_command import in_its_words
from fewstep.picture_size import size_argument
from fewstep.shell_command import FileOptionsParser, run_command

DISTANCES = ("lpips", "lpips_vgg", "pixels")
SOLVERS = ("dpm_solver", "ddim", "unipc", "diffusers_dpm_solver")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name); returns the exit code."""
    return run_command(parser(), "fewstep.collaboration.command_line.commands", argv)


class _Parser(FileOptionsParser):
    positional = "student"


def parser() -> argparse.ArgumentParser:
    description = (__doc__ or "").split("\n")[0]
    program = in_its_words("python -m fewstep.collaboration")
    parser = _Parser(program, description=description, fromfile_prefix_chars="@")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{calibrate,draw,sweep,bench,analyse}")
    calibrate = _command(commands, "calibrate", "the oracle's scores of drafts for prompts like those to come")
    calibrate.add_argument("--out", type=Path, default=Path("calibration.json"), help="default %(default)s")
    _add_policy(calibrate)
    draw = _command(commands, "draw", "a picture of every prompt, improved by the teacher where the oracle asks for it")
    draw.add_argument("--out", type=Path, default=Path("drawn"), help="folder; a draw that was killed goes on in it")
    _add_budget(draw)
    draw.add_argument(
        "--devices", type=int, default=1, metavar="N", help="processes of this machine that share the prompts (1)"
    )
    sweep = _command(commands, "sweep", "quality against passes on prompts that the calibration has not seen")
    _add_sweep(sweep)
    bench = _command(commands, "bench", "how much faster batches are than one prompt after the other")
    _add_budget(bench)
    bench.add_argument("--repeats", type=int, default=3, metavar="N", help="rounds of either; default %(default)s")
    analyse = _command(commands, "analyse", "where the student beats its teacher, by judges that are not the oracle")
    _add_analysis(analyse)
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
    add("--student-network", metavar="FOLDER", help="in the place of its pipeline's own, as LCM-SDXL is; or a hub id")
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
    _add_pictures(command)
    return command


def _add_policy(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--repair",
        choices=("refine", "regenerate", "auto"),
        default="refine",
        help="what the teacher does; auto tries it all on the prompts, and every budget chooses; default %(default)s",
    )
    rollback = command.add_mutually_exclusive_group()
    told = "how far a draft is taken back, inside 0 and 1: as variance of noise; default 0.5"
    rollback.add_argument("--rollback-variance", type=float, metavar="SIGMA", help=told)
    rollback.add_argument("--rollback-time", type=float, metavar="T", help="or as time, diffusers' strength")
    add("--drafts", type=int, default=1, metavar="N", help="of the student for a prompt at most; default %(default)s")
    add("--good-enough", type=float, metavar="SCORE", help="of a draft, above which no further one is drawn")
    add("--keep-best", action="store_true", help="take the draft where the oracle finds the teacher's picture worse")


def _add_pictures(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("pictures", "that every prompt of a .jsonl file has: `image`, `control`")
    strength = group.add_mutually_exclusive_group()
    told = "edit `image`: how far it is taken back before it is drawn anew, inside 0 and 1: as variance of noise"
    strength.add_argument("--edit-variance", type=float, metavar="S", help=told)
    strength.add_argument("--edit-time", type=float, metavar="T", help="or as time, diffusers' strength")
    told = "a ControlNet or T2I-Adapter that reads `control` beside both networks; or a hub id"
    group.add_argument("--control", metavar="FOLDER", help=told)
    group.add_argument("--images", type=Path, metavar="FOLDER", help="of these pictures, if not that of the prompts")


def _add_budget(command: argparse.ArgumentParser) -> None:
    budget = command.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        "--mean-passes", type=float, metavar="N", help="of the teacher's network for a picture, on average"
    )
    budget.add_argument("--k", type=float, metavar="PERCENT", help="of drafts that the teacher improves, 0 to 100")
    _add_calibration(command)


def _add_calibration(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--calibration", type=Path, default=Path("calibration.json"), metavar="FILE", help="of `calibrate`"
    )


def _add_sweep(command: argparse.ArgumentParser) -> None:
    _add_calibration(command)
    add = command.add_argument
    add("--out", type=Path, default=Path("sweep"), help="folder; default %(default)s")
    add("--judge", action="append", default=[], metavar="NAME", help="as --oracle, but another; several if given often")
    add(
        "--budgets", type=float, nargs="+", metavar="N", help="mean passes; eight from drafts to all repairs by default"
    )
    add("--best-of", type=int, default=8, metavar="N", help="draws of the student alone at most; default %(default)s")
    add("--teachers", type=int, nargs="+", default=[], metavar="N", help="steps of the teacher alone, such as 4 6 10")
    add("--rollbacks", type=float, nargs="+", default=[0.5], metavar="S", help="variances, to refine everything")


def _add_analysis(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--out", type=Path, default=Path("analysis"), help="folder; default %(default)s")
    add("--judge", action="append", required=True, metavar="NAME", help="as --oracle, but another; give two or more")
    add("--tie-share", type=float, default=0.13, metavar="SHARE", help="of pairs that are a tie; default %(default)s")
    add("--distance", choices=DISTANCES, default="lpips", help="of two pictures; default %(default)s")
    add("--curvature-steps", type=int, metavar="N", help="of the teacher's trajectory, 0 for none; default its own")


if __name__ == "__main__":
    sys.exit(main())
