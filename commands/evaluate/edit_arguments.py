"""The command line of evaluate.py --edits; reading it needs neither torch nor Lightning."""

import argparse
import math

from commands.evaluate.arguments import draws, path, place, positive, scale, seed
from fewstep.installed_command import in_its_words

EPILOG = """editors
  ddim           DDIM inversion; the target is guided where t <= tau
  prompt_switch  the same, under the source's prompt until tau
  fixed_point    the same, with the exact inverse of its way down
  null_prompt    null-prompt inversion: guided away from the source's prompt
  p2p            prompt-to-prompt after DDIM inversion
  sdedit         noised to t = tau, drawn anew from there
  flowedit       along the difference of two velocities from t = tau on
  icd=EXPORT     a distilled pair; icd_switch, icd_replay and icd_p2p are its other ways

example
  python evaluate.py --edits data/avatars64 --pipeline assets/sd_avatars --editors ddim prompt_switch sdedit \\
    --w 2 4 --tau 0.6 0.8 --steps 20 --num-samples 8 --out runs/edits
"""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        in_its_words("python evaluate.py").removeprefix("python "),
        description="Measure editors of pictures by text on edits: one table, one front of strength and preservation.",
        epilog=in_its_words(EPILOG),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--edits",
        required=True,
        type=place,
        metavar="FOLDER",
        help="in the layout of PIE-Bench, or shards with true edits (data/avatars64) or styles (data/emoji64)",
    )
    add(
        "--editors",
        nargs="+",
        required=True,
        metavar="NAME[=SOURCE]",
        help="below; SOURCE is a pipeline, or the export of an iCD run",
    )
    add("--out", type=path, required=True, metavar="DIR", help="receives report.md, front.svg, metrics.json, pictures")
    add("--pipeline", type=place, metavar="P", help="text to image, of all editors that name no source: folder or id")
    add("--w", type=scale, nargs="+", default=[4.0], metavar="W", help="guidance scales; 1 is unguided (4)")
    add("--tau", type=share, nargs="+", default=[0.8], metavar="T", help="times from which on the edit acts (0.8)")
    add("--steps", type=positive, default=50, metavar="N", help="of a pipeline's whole way down, and up (50)")
    add("--split", default="test", help="of shards (test)")
    add("--num-samples", type=positive, metavar="N", help="the first N edits; all if not given")
    add("--batch-size", type=positive, default=8, metavar="N", help="pictures at once (8)")
    add("--seed", type=seed, default=0, help="of all noise (0)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the networks (float32)")
    add(
        "--clip",
        metavar="MODEL",
        help="of the similarities: open_clip name, hf-hub:ID or local-dir:FOLDER; for our data their held-out scorer,\n"
        "else ViT-L-14-quickgelu",
    )
    add("--clip-pretrained", metavar="TAG", help="weights of an open_clip name, tag or file (openai)")
    add(
        "--structure",
        type=place,
        metavar="NETWORK",
        help="of the structure distance: a DINO ViT by hub id or folder, or mobilenet, which needs no network;\n"
        "mobilenet for our data, else facebook/dino-vitb8",
    )
    add("--lpips", choices=("alex", "vgg", "squeeze"), default="alex", help="PIE-Bench's own is squeeze (alex)")
    add("--bootstrap", type=draws, default=1000, help="resamples behind the 95%% intervals (1000)")
    add("--overwrite", action="store_true", help="replace a report about other editors, drop another's OUT/partial")
    return parser


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time above 0 and up to 1")
    return value
