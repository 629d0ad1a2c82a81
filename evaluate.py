"""Measure trained checkpoints or diffusers pipelines on test data: a table, metrics.json and a report with plots.

examples
  python evaluate.py runs/weather/ID --out runs/weather/ID/evaluation
  python evaluate.py runs/weather/A runs/weather/B/checkpoints/last.ckpt --out comparison
  python evaluate.py runs/emoji/ID --metrics fid kid clip_score --num-samples 2000 --out quality
  python evaluate.py some/pipeline --data data/emoji64 --metrics kid clip_score --steps 1 2 4 8 --out by_steps
  python evaluate.py some/pipeline --prompts prompts.txt --metrics image_reward --devices 2 --out rewards
  python evaluate.py runs/teacher/ID --prompts prompts.txt --metrics clip_score --steps 4 16 64 --out by_steps
  python evaluate.py --edits data/avatars64 --editors ddim sdedit --pipeline assets/sd_avatars --out edits
                     editors of pictures by text, and PIE-Bench; see python evaluate.py --edits --help

options of a metric, as its class in callbacks/ has them
  --metrics.kid.subset_size 100
  --metrics.fid.network fewstep.metrics.features.FIDInception --metrics.fid.network.weights FILE

The same command again goes on where a broken one stopped (OUT/partial); metrics and batch size may be changed.
"""

import sys
from collections.abc import Sequence

from commands.evaluate.arguments import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name); returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if any(word.split("=")[0] == "--edits" for word in argv):
        return of_edits(argv)
    args, options = parse(argv, __doc__)  # at once: what follows takes seconds to import
    try:
        from commands.evaluate.run import run

        return run(argv, args, options)
    except KeyboardInterrupt:
        print("stopped by SIGINT; what is measured is kept, the same command goes on", file=sys.stderr)
        return 130


def of_edits(argv: Sequence[str]) -> int:
    """The same for a comparison of editors, which has options of its own."""
    from commands.evaluate.edit_arguments import parser

    asked = {"-h", "--help"} & set(argv)  # also behind `--edits` alone, which else lacks its folder
    args = parser().parse_args(["--help"] if asked else argv)
    try:
        from commands.evaluate.edits import run

        return run(argv, args)
    except KeyboardInterrupt:
        print("stopped by SIGINT; what is edited is kept, the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
