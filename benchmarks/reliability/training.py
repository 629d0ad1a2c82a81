"""A training by train.py in one or more processes, started cheaply (forks) or as a user starts it."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability.key_log import newest_step
from benchmarks.reliability.processes import Process, children, fork, spawn
from benchmarks.reliability.promises import WITHIN, Missed, require

ROOT = Path(__file__).parents[2]
DDP = ["-c", str(ROOT / "configs" / "trainer" / "ddp.yaml")]
START = 240.0  # seconds until a run that is not yet seen to do anything is given up


@dataclass
class Training:
    """ranks: their processes, rank 0 first. Use as a context: what is left of them is killed at its end."""

    folder: Path
    ranks: list[Process]
    faulted: float | None = None  # when the fault happened

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.ranks:
            process.kill_session()

    def running(self) -> bool:
        return any(process.poll() is None for process in self.ranks)

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = START) -> None:
        """Until the condition holds; Missed if the run ends or the time passes before it does."""
        deadline = time.monotonic() + seconds
        while not condition():
            require(self.running(), f"the run ended before {what}: {self.tail()}")
            require(time.monotonic() < deadline, f"no {what} within {seconds:.0f} s: {self.tail()}")
            time.sleep(0.004)

    def fault(self, number: int, *ranks: int) -> None:
        """Send a signal to these ranks, to all if none is named; the clock of the promise starts, held steps go on."""
        for rank in ranks or range(len(self.ranks)):
            self.ranks[rank].signal(number)
        self.happened()

    def happened(self) -> None:
        """The same for a fault that is no signal."""
        self.faulted = time.monotonic()
        (self.folder / "keys.go").touch()

    def kill(self) -> None:
        """SIGKILL to everything at once."""
        for process in self.ranks:
            process.signal(signal.SIGSTOP)  # so that no rank sees another one die
        for process in self.ranks:
            process.kill_session()

    def since_fault(self) -> float:
        """Seconds from the fault to the end of the last process; while one runs, to now."""
        ends = [process.ended for process in self.ranks]
        ended = time.monotonic() if None in ends else max(ends)
        return max(0.0, ended - (self.faulted or 0.0))  # it may end of the first of two signals

    def begins(self, step: int) -> None:
        """Wait until a rank begins this step."""
        self.wait_for(lambda: newest_step(self.folder / "keys") >= step, f"step {step}")

    def codes(self, seconds: float = WITHIN) -> list[int]:
        """Exit codes; Missed unless every rank ends within that time, counted from the fault if there was one."""
        left = seconds - (time.monotonic() - self.faulted if self.faulted else 0.0)
        deadline = time.monotonic() + max(left, 0.1)
        return [process.wait(max(deadline - time.monotonic(), 0.1)) for process in self.ranks]

    def finishes(self, seconds: float = START) -> None:
        codes = self.codes(seconds)
        require(not any(codes), f"exit codes {codes}: {self.tail()}")

    def text(self) -> str:
        return "".join(process.text() for process in self.ranks)

    def tail(self) -> str:
        return " || ".join(dict.fromkeys(process.tail() for process in self.ranks))


def start(folder: Path, arguments: list[str], ranks: int = 1, environment: Mapping[str, str] | None = None) -> Training:
    """train.py fit with these arguments in forked processes, each rank told its place as torchrun would."""
    folder.mkdir(parents=True, exist_ok=True)
    common = {"OMP_NUM_THREADS": "1", **(environment or {})}
    argv = ["fit", *arguments]
    if ranks > 1:
        argv += [*DDP, "--trainer.devices", str(ranks)]
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(ranks)}
        common |= {"LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "faults"}
    started = []
    for rank in range(ranks):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
        output = _output(folder, rank)
        started.append(fork(lambda rank=rank: _train(argv, rank), output, common | place))
    return Training(folder, started)


def launch(folder: Path, arguments: list[str], environment: Mapping[str, str] | None = None) -> Training:
    """train.py fit on two processes as a user types it: Lightning starts the second one from the first."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "train.py"), "fit", *arguments, *DDP, "--trainer.devices", "2"]
    paths = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(environment or {})}
    return Training(folder, [spawn(command, _output(folder, 0), paths)])


def find_second_rank(training: Training) -> int:
    """Process number of the rank that Lightning started."""
    first = training.ranks[0].pid
    for pid in children(first):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"LOCAL_RANK=1" in environment:
            return pid
    raise Missed(f"process {first} has no child with LOCAL_RANK=1: {training.tail()}")


def _train(argv: list[str], rank: int) -> int:
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    import train

    rank_zero_only.rank = rank  # Lightning reads it from the environment when imported, which was before the fork
    os.chdir(ROOT)
    sys.argv = [str(ROOT / "train.py"), *argv]
    return train.main()


def _output(folder: Path, rank: int) -> Path:
    """A new file for each launch."""
    return folder / f"output.{rank}.{len(list(folder.glob(f'output.{rank}.*')))}"


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
