"""Train with Ray: workers anywhere on a cluster, restarted from the run's own checkpoint when one of them is lost.

    python -m commands.train.ray --workers 4 --use-gpu train.py fit -c configs/METHOD/RUN.yaml
    python -m commands.train.ray --workers 2:8 --use-gpu --max-failures 10 --address auto train.py fit -c ...

Everything after train.py is its own command line. Every start, the first too, is `--resume auto` in one run directory,
which all machines must see. The workers share the global batch: another number of them gives the same training.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands.train.run_directory import RUN_ID_VARIABLE, new_run_id, refuse_occupied
from commands.train.run_lock import LEASE, WAIT_VARIABLE
from commands.train.scan import scan, with_saved_config
from commands.trusted_code import VARIABLE
from fewstep.one_line import one_line

USERS_MISTAKE = 2  # an exit code of train.py: the same command would end in the same way


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The launcher's own options; `script` and the `arguments` of train.py behind them."""
    parser = argparse.ArgumentParser(
        "python -m commands.train.ray", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workers", type=worker_range, default=(1, 1), metavar="N|MIN:MAX", help="processes; as many as there is room")
    add("--use-gpu", action="store_true", help="one GPU for each worker")
    add("--cpus-per-worker", type=int, default=1, help="CPU cores that Ray reserves for each worker (1)")
    add("--max-failures", type=int, default=3, help="restarts after a lost worker or an error; -1 without end (3)")
    add("--timeout", type=int, default=600, help="seconds that a worker waits for the others (600)")
    add("--address", help="Ray cluster: auto or HOST:PORT; if not given, a local one for this run")
    add("script", type=Path, metavar="train.py")
    add("arguments", nargs=argparse.REMAINDER, help="fit -c CONFIG ...")
    return parser.parse_args(argv)


def worker_range(text: str) -> tuple[int, int]:
    """`4` or `2:8` as (at least, at most)."""
    parts = text.split(":")
    if len(parts) > 2 or not all(part.isdigit() for part in parts) or not 1 <= int(parts[0]) <= int(parts[-1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of workers; give 4, or 2:8 for an elastic run")
    return int(parts[0]), int(parts[-1])


def worker_arguments(script: Path, arguments: Sequence[str]) -> list[str]:
    """What each worker gives to train.py: the user's arguments, Ray's part of the trainer, and `--resume auto`.

    Errors: ValueError for a command that is not a training, a run directory in use, a checkpoint of another run.
    """
    if not script.is_file() or list(arguments[:1]) != ["fit"]:
        raise ValueError(f"commands.train.ray runs `train.py fit ...`, not `{' '.join([str(script), *arguments[:1]])}`")
    given = scan(arguments)
    if given.resume not in (None, "auto"):
        raise ValueError(f"--resume {given.resume}: a restarted worker goes on with --resume auto; give that one")
    if given.run_dir and not given.resume:
        refuse_occupied(Path(given.run_dir))
    elif not given.run_dir:
        os.environ.setdefault(RUN_ID_VARIABLE, new_run_id())
    complete = with_saved_config([*arguments, *([] if given.resume else ["--resume", "auto"])])
    return [*complete, "-c", str(script.absolute().parent / "configs" / "trainer" / "ray.yaml")]


def work(job: dict[str, Any]) -> None:
    """In each worker: run train.py in the launcher's folder. An error asks Ray for a restart of all workers."""
    import ray.train

    os.chdir(job["folder"])
    code = importlib.import_module(job["script"]).main(job["arguments"])
    if code == USERS_MISTAKE:
        ray.train.report({"exit_code": code})
    elif code:
        raise RuntimeError(f"train.py ended with exit code {code}")


def launch(options: argparse.Namespace) -> int:
    """Start Ray, train, and return train.py's exit code; 1 when the restarts are used up."""
    arguments = worker_arguments(options.script, options.arguments)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise ImportError(f"{error}; pip install 'fewstep[ray]'") from error
    root = str(options.script.absolute().parent)
    places = [root, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, places))}  # an empty one is the working directory
    variables |= {WAIT_VARIABLE: os.environ.get(WAIT_VARIABLE, str(LEASE))}
    shared = {RUN_ID_VARIABLE, "FEWSTEP_TRACEBACK", VARIABLE}
    variables |= {name: os.environ[name] for name in shared & os.environ.keys()}
    ray.init(options.address or "local", runtime_env={"env_vars": variables})
    lowest, highest = options.workers
    trainer = TorchTrainer(
        work,
        train_loop_config={"folder": os.getcwd(), "script": options.script.stem, "arguments": arguments},
        torch_config=TorchConfig(timeout_s=options.timeout),
        scaling_config=ScalingConfig(
            num_workers=highest if lowest == highest else (lowest, highest),
            use_gpu=options.use_gpu,
            resources_per_worker={"CPU": options.cpus_per_worker},
        ),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=options.max_failures)),
    )
    try:
        result = trainer.fit()
    finally:
        ray.shutdown()
    return (result.metrics or {}).get("exit_code", 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name); returns the exit code."""
    options = parse(sys.argv[1:] if argv is None else argv)
    try:
        return launch(options)
    except (ValueError, ImportError) as error:
        print(f"error: {one_line(error, 800)}", file=sys.stderr)
        return USERS_MISTAKE


if __name__ == "__main__":
    from commands.train.ray import main as importable  # workers find `work` by this name

    sys.exit(importable())
