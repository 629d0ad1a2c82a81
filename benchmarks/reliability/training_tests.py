"""Whether the tests that train pass by merit: each for several seeds, numbers of threads and sets of kernels.

    python benchmarks/reliability/training_tests.py [--seeds 10] [--threads 1 2] [--only tests/fewstep ...]

Runs what is marked `learns`, one process for each number of threads and set of kernels, and prints how often each test
passed and the largest share of a bound that an outcome took (`below` in tests/conftest.py). Exit code 1 if a test
failed or a share exceeds 0.8: such a test can fail on another processor. An hour and more for everything: `--rows FILE`
keeps each outcome as it comes and counts what the file holds already.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

ROOT = Path(__file__).parents[2]
KERNELS = {
    "this processor's": {},
    "plain": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"},
}
LARGEST_SHARE = 0.8


class Outcomes:
    """A pytest plugin that keeps a row for each test: its name, whether it passed, its shares."""

    def __init__(self, seed: int) -> None:
        self.seed, self.rows = seed, []

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or report.failed:
            row = {"test": report.nodeid, "seed": self.seed, "passed": report.passed}
            self.rows.append(row | {"shares": dict(report.user_properties)})


def run_seeds(files: list[str], seeds: int) -> None:
    """All seeds in this process, which imports once; a line for each row, the tests' own output goes to stderr."""
    import pytest

    for seed in range(seeds):
        os.environ["TEST_SEED"] = str(seed)
        found = Outcomes(seed)
        with redirect_stdout(sys.stderr):
            code = pytest.main(["-m", "learns", "-p", "no:cacheprovider", *files], plugins=[found])
        if code not in (0, 1):  # passed, some failed
            sys.exit(int(code))
        print(*map(json.dumps, found.rows), sep="\n", flush=True)


def marked(folders: list[Path]) -> list[str]:
    files = {file for folder in folders for file in ([folder] if folder.is_file() else folder.rglob("test_*.py"))}
    return sorted(str(file) for file in files if "pytest.mark.learns" in file.read_text())


def outcomes(files: list[str], seeds: int, threads: int, kernels: str) -> Iterator[dict]:
    """A row for each test and seed, as they come. CalledProcessError if pytest could not run them."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **KERNELS[kernels]}
    command = [sys.executable, __file__, "--here", "--seeds", str(seeds), "--only", *files]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        for line in running.stdout:
            if line.startswith("{"):
                yield json.loads(line) | {"threads": threads, "kernels": kernels}
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command[:3])


def kept(file: Path) -> list[dict]:
    """The rows that a file of earlier outcomes holds."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def report(rows: list[dict]) -> int:
    """Prints a line for each test; 1 if one failed or came near its bound."""
    tests, bad = defaultdict(list), not rows
    for row in rows:
        tests[row["test"]].append(row)
    for name, found in sorted(tests.items()):
        failed = [f"{r['seed']}/{r['threads']}/{r['kernels']}" for r in found if not r["passed"]]
        shares = {key: max(r["shares"].get(key, 0.0) for r in found) for row in found for key in row["shares"]}
        bad |= bool(failed) or max(shares.values(), default=0.0) > LARGEST_SHARE
        worst = ", ".join(f"{key} {share:.2f}" for key, share in shares.items())
        print(f"{len(found) - len(failed)}/{len(found)}  {name}  {worst}", *failed[:3])
    return int(bad)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--rows", type=Path, default=Path(os.devnull), help="keep every outcome here")
    parser.add_argument("--only", type=Path, nargs="+", default=[ROOT / "tests"], help="files or folders of tests")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    files = marked([path.absolute() for path in options.only])
    if options.here:
        run_seeds(files, options.seeds)
        return 0
    rows = kept(options.rows)
    with options.rows.open("a") as file:
        for setting in itertools.product(options.threads, options.kernels):
            for row in outcomes(files, options.seeds, *setting):
                rows.append(row)
                print(json.dumps(row), file=file, flush=True)
    return report(rows)


if __name__ == "__main__":
    sys.exit(main())
