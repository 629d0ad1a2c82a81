"""train.py and evaluate.py in processes of their own that cost a second: forks of one that has imported everything.

A process of the suite cannot fork itself: libraries under test have started threads in it. So each has one server,
started by the first test that asks, which imports, waits, and forks. What depends on how a user starts a process is
tested with a fresh interpreter in test_train.py, test_preemption_runs.py and test_scale_out.py.
"""

import atexit
import importlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE

ROOT = Path(__file__).parents[1]
_servers: list[subprocess.Popen] = []  # one at most


class Fork:
    """A child of the server; output: what it writes to stdout, and to stderr too if that has no file of its own."""

    def __init__(
        self, script: str, argv: Sequence[str], output: Path, errors: Path | None = None, **environment: str
    ) -> None:
        """script: a module with a main(), such as "train"; the working directory and the environment are the caller's.

        errors: file for stderr.
        """
        self.output = output
        common = {**own_environment(), "OMP_NUM_THREADS": "1", **environment}
        asked = {"script": script, "argv": list(argv), "cwd": os.getcwd(), "environment": common}
        self.pid = _ask(**asked, output=str(output), errors=errors and str(errors))

    def wait(self) -> int:
        """Exit code, or minus the number of the signal that ended it."""
        deadline = time.monotonic() + PATIENCE
        while (code := self.poll()) is None:
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.02)
        return code

    def poll(self) -> int | None:
        """The same, or None while it runs."""
        return _ask(poll=self.pid)

    def text(self) -> str:
        return self.output.read_text()


def two_ranks(script: str, argv: Sequence[str], folder: Path) -> list[Fork]:
    """The same command in two processes that know their places, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    common |= {"GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "tests"}
    return [Fork(script, argv, folder / f"rank_{r}", **common, RANK=str(r), LOCAL_RANK=str(r)) for r in range(2)]


def finish(forks: Sequence[Fork]) -> str:
    """What they wrote, once all have ended well."""
    codes = [fork.wait() for fork in forks]
    text = "".join(fork.text() for fork in forks)
    assert not any(codes), text
    return text


def own_environment() -> dict[str, str]:
    """That of this process, but for the address of its W&B recorder, which writes to another folder."""
    return {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}


def _ask(**request: Any) -> Any:
    if not _servers:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        environment = {**own_environment(), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        _servers.append(subprocess.Popen([sys.executable, "-m", "tests.forks"], cwd=ROOT, env=environment, **pipes))
        atexit.register(_servers[0].kill)
    server = _servers[0]
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever is printed meanwhile is no answer
    from benchmarks.reliability.processes import Process, fork
    from benchmarks.reliability.run import preload

    preload()
    for name in ("commands.evaluate.run", "diffusers.models.unets.unet_2d_condition", "transformers.models.clip"):
        importlib.import_module(name)
    started: dict[int, Process] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            answer = started[request["poll"]].poll()
        else:
            process = fork(lambda asked=request: _run(**asked), Path(request["output"]), request["environment"])
            started[process.pid], answer = process, process.pid
        print(json.dumps(answer), file=answers, flush=True)


def _run(
    script: str, argv: list[str], cwd: str, environment: dict[str, str], errors: str | None = None, **_: str
) -> int:
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    rank_zero_only.rank = int(environment.get("RANK", 0))  # Lightning reads it when imported, which was before the fork
    os.chdir(cwd)
    if errors:
        os.dup2(os.open(errors, os.O_CREAT | os.O_APPEND | os.O_WRONLY), 2)
    sys.argv = [str(ROOT / f"{script.replace('.', '/')}.py"), *argv]
    return importlib.import_module(script).main()


if __name__ == "__main__":
    _serve()
