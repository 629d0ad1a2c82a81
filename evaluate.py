"""Measure trained checkpoints on their test data: a table, metrics.json and a report with plots.

examples
  python evaluate.py runs/weather/ID --out runs/weather/ID/evaluation
  python evaluate.py runs/weather/A runs/weather/B/checkpoints/last.ckpt --out comparison
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("evaluate.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add(
        "checkpoint", nargs="+", metavar="CKPT", help="checkpoint, or run directory: its best checkpoint, else the last"
    )
    add(
        "--out", type=Path, required=True, metavar="DIR", help="receives metrics.json, report.md, report.html, pictures"
    )
    add("--config", type=Path, metavar="C", help="config with the model and the data; RUN/config.yaml if not given")
    add("--seed", type=int, default=0, help="of the intervals and of the global random generators (0)")
    add("--devices", type=int, default=1, help="processes that share the test data (1)")
    add("--bootstrap", type=int, default=1000, help="resamples behind each 95%% interval (1000)")
    add("--overwrite", action="store_true", help="replace a report about other checkpoints")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write, print; returns 0, or 2 after one line on stderr and with nothing written."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    # Class names in a config and in a checkpoint resolve among imported packages only.
    import datamodules  # noqa: F401
    import lightning_modules  # noqa: F401
    from callbacks import report
    from callbacks.evaluation import build, locate, measure
    from callbacks.quiet import quiet

    quiet()
    try:
        files = [locate(Path(path), args.config) for path in args.checkpoint]
        report.check_out(args.out, [str(checkpoint) for checkpoint, _ in files], args.overwrite)
        built = [build(*pair) for pair in files]  # every one, before the first is measured
        measured = [m for b in built if (m := measure(b, args.seed, args.devices, args.bootstrap))]
        if measured:  # in the first process only
            runs, pictures = [run for run, _ in measured], [picture for _, picture in measured]
            report.write(args.out, runs, pictures, " ".join(["python evaluate.py", *map(str, argv)]))
            report.print_table(runs)
            print(f"report  {args.out / 'report.html'}")
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"error: {' '.join(str(error).split())[:400]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
