"""The options of the commands, in groups."""

import argparse
import math
from pathlib import Path

from fewstep.picture_size import size_argument

MODES = ("one_step", "random_t", "eff", "full")
ENCODINGS = ("stochastic", "ddim")
ASKED = "what a reader shall find in edits, all else as before; several times for several"
OF_DICTIONARY = "; default: as the dictionary says"


def weighted_file(text: str) -> tuple[Path, float]:
    """FILE=0.7, or FILE alone for 1."""
    name, equals, weight = text.rpartition("=")
    try:
        file, share = (Path(name), float(weight)) if equals else (Path(text), 1.0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:60]!r}: write FILE=0.7, or FILE alone") from None
    if not math.isfinite(share):
        raise argparse.ArgumentTypeError(f"{text[:60]!r}: the weight must be a finite number, such as 0.7")
    return file, share


def attribute(text: str) -> tuple[str, str]:
    """ATTRIBUTE=VALUE."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text[:60]!r}: write ATTRIBUTE=VALUE, such as glasses=round")
    return name, value


def hidden_by(text: str) -> tuple[str, list[str]]:
    """ATTRIBUTE=OTHER,OTHER."""
    name, equals, others = text.partition("=")
    if not (name and equals and all(others.split(","))):
        raise argparse.ArgumentTypeError(f"{text[:60]!r}: write ATTRIBUTE=OTHERS, such as hat=hair_length,hair_color")
    return name, others.split(",")


def add_pictures(command: argparse.ArgumentParser) -> None:
    told = "PNG, JPEG, WebP, GIF or BMP files, folders of them, or a data set's folder of shards"
    command.add_argument("pictures", type=Path, nargs="+", metavar="PICTURES", help=told)


def add_base(command: argparse.ArgumentParser) -> None:
    told = "folder or hub id of the diffusion model, if it is not where it was in training"
    command.add_argument("--base", help=told)


def add_shape(command: argparse.ArgumentParser, whole: bool = True) -> None:
    told = "cut to the model's shape, or pad"
    told += "; if not given, whole pictures at their own size, where residual allows it" if whole else ""
    command.add_argument("--crop", choices=("center", "none"), default=None if whole else "center", help=told)
    told = "to cut to, in pixels, if not that of training: 64 for squares, 64x128 for height x width"
    command.add_argument("--size", type=size_argument, help=told)


def add_application(
    command: argparse.ArgumentParser, otherwise: str = "as its file says, if not given", encoding: str = "--encoding"
) -> None:
    add = command.add_argument_group("how the edit is applied", otherwise).add_argument
    add("--strength", type=float, metavar="S", help="how much of the edit: 0 is none, 1 as learnt")
    add("--num-steps", type=int, metavar="N", help="of decoding")
    add("--split", type=float, metavar="T", help="time below which the base decodes without the edit")
    add("--projection", type=float, metavar="T", help="time to which the result is noised again, 0 for none")
    told = "how pictures are noised; ddim keeps more and costs passes"
    add(encoding, dest="encoding", choices=ENCODINGS, help=told)
    add("--no-residual", action="store_true", help="take what is decoded, not the picture and what the edit changes")


def add_learning(command: argparse.ArgumentParser, passes: int, gate: str = "") -> None:
    """What to learn, and how. gate: which one is taken if none is given."""
    command.add_argument("base", metavar="BASE", help="folder or hub id of the diffusion model, such as a DDPMPipeline")
    add = command.add_argument_group("what is learnt").add_argument
    add("--edit", metavar="NAME", help="of the dictionary, fewstep/fast_edit/edits.yaml")
    told = "what pictures show; with --target, in the place of --edit; several times for several pairs"
    add("--source", action="append", default=[], metavar="TEXT", help=told)
    add("--target", action="append", default=[], metavar="TEXT", help="what they shall show")
    add("--templates", help="sentences around the texts: imagenet, imagenet_small or plain")
    told = "folder, hf-hub:owner/name or MODEL:WEIGHTS; several are averaged; default: the domain's"
    add("--clip", action="append", metavar="CLIP", help=told)
    add_judge_clip(command, "another one, which is not learnt from and judges the edits; default: the domain's")
    add("--enlarge", type=int, metavar="N", help="times that a CLIP sees every pixel; avatars: as often as fits")
    add = command.add_argument_group("how it is learnt").add_argument
    add("--t0", type=float, metavar="T", help="time that pictures are noised to, above 0 to 1; default: the edit's")
    told = "how pictures are noised to learn from them; default stochastic"
    add("--train-encoding", choices=ENCODINGS, help=told)
    add("--mode", choices=MODES, default=MODES[0], help="which estimates the loss sees; default %(default)s")
    add("--reference", choices=("source", "frozen_estimate"), default="source", help="what they are compared with")
    add("--passes", type=int, default=passes, metavar="N", help="over the pictures; default %(default)s")
    add("--lr", type=float, metavar="LR", help="default 2e-3, or 1e-4 with --full")
    add("--lr-growth", type=float, default=1.0, metavar="F", help="factor of it after a pass; default %(default)s")
    add("--l1", type=float, default=1.0, metavar="W", help="weight of what shall stay; default %(default)s")
    add("--views", type=int, default=4, metavar="N", help="of each picture that the CLIP sees; default %(default)s")
    add("--rank", type=int, default=4, metavar="N", help="of the adapter; default %(default)s")
    add("--alpha", type=float, default=8.0, metavar="A", help="of the adapter; default %(default)s")
    add(
        "--full", action="store_true", help="train every weight instead of an adapter; the file is as large as the base"
    )
    add = command.add_argument_group("what chooses its best state").add_argument
    told = "a reader of attributes that looks at the edit as it is learnt, and does not judge it"
    add("--gate", metavar="FOLDER", help=told + gate)
    add("--asked", type=attribute, action="append", default=[], metavar="ATTRIBUTE=VALUE", help=ASKED + OF_DICTIONARY)
    told = "share of pictures with what is asked, above 0 to 1, at which learning stops"
    add("--enough", type=float, metavar="SHARE", help=told)


def add_judge_clip(command: argparse.ArgumentParser, what: str) -> None:
    add = command.add_argument_group("the CLIP that judges").add_argument
    add("--judge-clip", metavar="CLIP", help=what)
    told = "a sentence in words that it knows, before the edit, if not those of --source; several times for several"
    add("--judge-source", action="append", default=[], metavar="TEXT", help=told)
    add("--judge-target", action="append", default=[], metavar="TEXT", help="the same sentence after the edit")


def add_audit(command: argparse.ArgumentParser, asked: bool = True) -> None:
    """asked: where `add_learning` has not asked it already."""
    add = command.add_argument_group("the audit").add_argument
    add("--reader", metavar="FOLDER", help="a reader of attributes that took no part in learning, as a judge")
    if asked:
        add("--asked", type=attribute, action="append", default=[], metavar="ATTRIBUTE=VALUE", help=ASKED)
    told = "what does not count where it sees the first, such as hat=hair_length,hair_color; several times for several"
    add("--hides", type=hidden_by, action="append", default=[], metavar="ATTRIBUTE=OTHERS", help=told)
    told = "real pictures with and without what the edit brings, by which its ratios are judged; needs --reader"
    add("--references", type=Path, nargs="+", default=[], metavar="PLACE", help=told)
    add("--num-references", type=int, default=256, metavar="N", help="at most; default %(default)s")
