"""Generate, invert and edit pictures with an exported pair of students, from the shell.

    python -m fewstep.icd edit RUN/export --image cat.png --source "a flat drawing of a cat" \\
        --target "a 3D drawing of a cat" --out edited.png

`python -m fewstep.icd COMMAND --help` tells the options. A mistake is answered with one line and exit code 2.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.installed_command import in_its_words
from fewstep.picture_size import size_argument
from fewstep.shell_command import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name); returns the exit code."""
    return run_command(parser(), "fewstep.icd.commands", argv)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(in_its_words("python -m fewstep.icd"), description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="{generate,invert,edit}")
    generate = _command(commands, "generate", "a picture of a prompt, or of a code that `invert` wrote")
    generate.add_argument("--prompt", required=True, help="what the picture shall show")
    generate.add_argument("--code", type=Path, metavar="FILE", help="start from this code instead of from noise")
    _add_guidance(generate, guided_below=1.0)
    noise = "factor of the noise; default: the scale of the pair's codes where it was measured, else 1"
    generate.add_argument("--noise-scale", type=float, metavar="S", help=noise)
    invert = _command(commands, "invert", "the code of a picture, and the picture that is decoded from it")
    _add_picture(invert)
    invert.add_argument("--code", type=Path, metavar="FILE", help="also write the code, to this .safetensors file")
    edit = _command(commands, "edit", "a picture changed from what --source says to what --target says")
    _add_picture(edit)
    edit.add_argument("--target", required=True, help="what the edited picture shall show")
    edit.add_argument("--mask", type=Path, metavar="FILE", help="picture of the same size, white where it may change")
    _add_guidance(edit, guided_below=0.8)
    _add_editing(edit)
    return parser


def _command(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
    told = "what an ICD run exported: RUN/export; or give --forward-adapter and --reverse-adapter"
    command.add_argument("export", type=Path, nargs="?", metavar="EXPORT", help=told)
    command.add_argument("--out", type=Path, default=Path(f"{name}.png"), help="PNG to write; %(default)s if not given")
    command.add_argument("--overwrite", action="store_true", help="replace files; otherwise NAME-2.png is written")
    command.add_argument("--steps-sheet", type=Path, metavar="FILE", help="also write a picture of every step")
    command.add_argument("--seed", type=int, default=0, help="of the noise; default %(default)s")
    command.add_argument("--device", default="cpu", help="such as cpu, cuda or mps; default %(default)s")
    dtypes = ("float32", "bfloat16", "float16")
    command.add_argument("--dtype", choices=dtypes, default="float32", help="of the network; default %(default)s")
    command.add_argument("--pipeline", help="folder or hub id of the teacher, if not where it was in training")
    command.add_argument("--network", help="folder of the guidance-distilled network, likewise")
    size = "of pictures in pixels, if not that of training: 512 for squares, 512x768 for height x width"
    command.add_argument("--size", type=size_argument, help=size)
    _add_adapters(command)
    return command


def _add_adapters(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("adapters of others, in place of EXPORT; with --pipeline and --network")
    add = group.add_argument
    add("--forward-adapter", metavar="FILE", help="of the encoder, as the authors of iCD released it")
    add("--reverse-adapter", metavar="FILE", help="of the decoder")
    ends = "of the segments that they were trained on; default 0,0.26,0.52,0.78,1"
    add("--boundaries", type=_numbers, metavar="T,T,..", help=ends)
    add("--start", type=float, metavar="T", help="where encoding starts; default 0.02")
    scales = "guidance scales of the training, such as 1,8,12,16,20; default: those of --network"
    add("--trained-scales", type=_numbers, metavar="W,W,..", help=scales)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(","))


def _add_picture(command: argparse.ArgumentParser) -> None:
    command.add_argument("--image", type=Path, required=True, metavar="FILE", help="PNG, JPEG, WebP, GIF or BMP")
    command.add_argument("--source", required=True, help="what the picture shows, in words")
    command.add_argument("--crop", choices=("center", "none"), default="center", help="cut to shape, or pad")


def _add_guidance(command: argparse.ArgumentParser, guided_below: float) -> None:
    add = command.add_argument
    add("--guidance-scale", type=float, metavar="W", help="one that was trained, 1 is unguided; default: nearest to 8")
    add(
        "--guided-below", type=float, default=guided_below, metavar="TAU",
        help="guide only where the noise level t is at most this; default %(default)s",
    )  # fmt: skip


def _add_editing(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--backend", choices=("prompt_switch", "prompt_to_prompt"), default="prompt_switch", help="default %(default)s")
    add("--prompt-below", type=float, default=1.0, metavar="T", help="the source's prompt where t is more")
    difference = "difference: only by what sets the target apart from the source, so the same words change nothing"
    add("--guide-by", choices=("prompt", "difference"), default="prompt", help=difference)
    add("--replay", action="store_true", help="correct the edit by what a reconstruction gets wrong")
    group = command.add_argument_group("prompt_to_prompt")
    add = group.add_argument
    add("--cross-share", type=float, default=0.3, help="share of the steps with the source's cross-attention")
    add("--self-share", type=float, default=0.6, help="share of the steps with the source's self-attention")
    add("--mode", choices=("auto", "replace", "refine"), default="auto", help="how the words of the prompts correspond")
    add("--amplify", type=float, default=1.0, help="factor on the attention to words that are new in the target")
    add("--blend", action="store_true", help="change the picture only where the changed words are attended to")


if __name__ == "__main__":
    sys.exit(main())
