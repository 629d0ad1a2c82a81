"""Weights & Biases that is not there, dies, hangs, or has no space: the training ends as if nothing had been."""

import os
import random
import signal
import time
from pathlib import Path

from benchmarks.reliability.full_disks import disk, fill
from benchmarks.reliability.killed_runs import equals, uninterrupted
from benchmarks.reliability.methods import STEPS, options
from benchmarks.reliability.processes import Process, fork
from benchmarks.reliability.promises import WITHIN, Missed, no_traceback, require, says
from benchmarks.reliability.training import START, Training, start

HOLD = 20
PORT_OF_NOBODY = "http://127.0.0.1:9"


def down_at_start(folder: Path, trial: int, rng: random.Random) -> str:
    with start(folder, _arguments(folder, "online"), environment=_environment(folder, PORT_OF_NOBODY)) as training:
        training.happened()
        return _goes_on(training, folder) + _offers_upload(training)


def fails_in_the_middle(folder: Path, trial: int, rng: random.Random, number: int) -> str:
    """number: SIGKILL, connections are refused from then on; SIGSTOP, they are accepted and never answered."""
    server = _server(folder)
    try:
        address = (folder / "address").read_text()
        with start(folder, _arguments(folder, "online"), environment=_environment(folder, address)) as training:
            training.begins(rng.randrange(5, HOLD))
            server.signal(number)
            training.happened()
            return _goes_on(training, folder) + _offers_upload(training)
    finally:
        server.kill_session()


def disk_full(folder: Path, trial: int, rng: random.Random) -> str:
    """The folder that W&B records in is a full disk; the rest of the run directory is not."""
    with disk(folder / "run" / "wandb", megabytes=2) as small:
        arguments = [*_arguments(folder, "offline"), "--resume", "auto"]  # the run directory is not empty
        with start(folder, arguments, environment=_environment(folder, PORT_OF_NOBODY)) as training:
            training.begins(rng.randrange(5, HOLD))
            fill(small, leave=0)
            training.happened()
            detail = _goes_on(training, folder)
            says(training.text(), "W&B: .*(space|disk|full)")
            return detail


def _goes_on(training: Training, folder: Path) -> str:
    """Finishes as the run without W&B does, soon after its last step."""
    training.begins(STEPS - 1)
    training.faulted = time.monotonic()
    codes = training.codes(START)
    require(codes == [0], f"exit codes {codes}, promised 0: {training.tail()}")
    no_traceback(training.text())
    equals(folder, uninterrupted("ot", folder.parent, 1))
    waited = training.since_fault()
    require(waited <= WITHIN, f"the run ended {waited:.0f} s after its last step, promised {WITHIN:.0f}")
    return f"the run ended {waited:.1f} s after its last step, with the undisturbed weights"


def _offers_upload(training: Training) -> str:
    says(training.text(), "wandb sync ")
    return "; `wandb sync` is offered"


def _arguments(folder: Path, mode: str) -> list[str]:
    return options("ot", folder, hold=HOLD, wandb=mode)


def _environment(folder: Path, address: str) -> dict[str, str]:
    home = {"HOME": str(folder), "NETRC": str(folder / "no_netrc")}
    return home | {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}


def _server(folder: Path) -> Process:
    """A stand-in for the server, in a process of its own that can be killed or stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    server = fork(lambda: _serve(folder / "address"), folder / "server.output")
    deadline = time.monotonic() + START
    while not (folder / "address").exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise Missed(f"no stand-in for the server: {server.tail()}")
        time.sleep(0.01)
    return server


def _serve(address: Path) -> int:
    from tests.callbacks.fake_wandb_server import FakeWandbServer

    partial = address.with_suffix(".partial")
    partial.write_text(FakeWandbServer().url)
    os.replace(partial, address)
    while True:
        signal.pause()
