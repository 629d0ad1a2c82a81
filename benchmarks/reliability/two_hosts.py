"""Two machines: network namespaces of this one, joined by a cable that can be pulled. They share its disks."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability.killed_runs import equals, uninterrupted
from benchmarks.reliability.methods import options
from benchmarks.reliability.processes import Process, kill, spawn
from benchmarks.reliability.promises import Missed, load, no_traceback, require, says
from benchmarks.reliability.training import DDP, ROOT, Training

HOLD = 20  # the step in which the run waits for the fault
PORT = 29500
TIMEOUT = 10  # seconds that ranks wait for one another
CABLE = "cable0"


@dataclass(frozen=True)
class Host:
    """A namespace with one network interface; commands in it see no other."""

    name: str
    address: str

    def spawn(self, command: list[str], output: Path, environment: Mapping[str, str]) -> Process:
        own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": CABLE}
        return spawn(["ip", "netns", "exec", self.name, *command], output, {**own, **environment})

    def pull_the_cable(self) -> None:
        _ip("-n", self.name, "link", "set", CABLE, "down")

    def plug_it_in(self) -> None:
        _ip("-n", self.name, "link", "set", CABLE, "up")

    def kill_everything(self) -> None:
        for pid in _ip("netns", "pids", self.name).split():
            kill(int(pid))


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Whatever runs in them is killed at the end. Missed where namespaces cannot be made."""
    hosts = tuple(Host(f"fewstep-{os.getpid()}-{n}", f"10.77.0.{n + 1}") for n in range(2))
    made: list[Host] = []
    try:
        for host in hosts:
            _ip("netns", "add", host.name)
            made.append(host)
            _ip("-n", host.name, "link", "set", "lo", "up")
        ends = [["name", CABLE, "netns", host.name] for host in hosts]
        _ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for host in hosts:
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", CABLE)
            host.plug_it_in()
        yield hosts[0], hosts[1]
    finally:
        for host in made:
            host.kill_everything()
            _ip("netns", "del", host.name)


def machine_replaced(folder: Path, trial: int, rng: random.Random) -> str:
    """Cable and processes of the second machine are gone; torchrun's agent of another one joins in its place."""
    folder.mkdir(parents=True)
    with two_hosts() as (first, second), Training(folder, []) as training:
        training.ranks = [_agent(first, folder), lost := _agent(second, folder)]
        training.begins(HOLD)
        second.pull_the_cable()
        second.kill_everything()
        lost.wait(30)
        training.happened()
        second.plug_it_in()
        training.ranks[1] = _agent(second, folder)
        training.finishes()
        says(training.text(), r"resume\s+\S+last\.ckpt")
        equals(folder, uninterrupted("ot", folder.parent, 2))
        return f"lost in step {HOLD}; over {training.since_fault():.0f} s later, with the undisturbed weights"


def network_cut(folder: Path, trial: int, rng: random.Random) -> str:
    """The cable is pulled and both machines live: no connection is closed, an answer just never comes."""
    folder.mkdir(parents=True)
    with two_hosts() as hosts, Training(folder, []) as training:
        training.ranks = [_rank(host, number, hosts[0], folder) for number, host in enumerate(hosts)]
        training.begins(HOLD)
        hosts[1].pull_the_cable()
        training.happened()
        codes = training.codes()
        require(codes == [1, 1], f"exit codes {codes}: {training.tail()}")
        no_traceback(training.text())
        says(training.text(), r"error on rank \d: another rank is gone .* is intact; go on with")
        seconds, step = training.since_fault(), load(folder / "run" / "checkpoints" / "last.ckpt")["global_step"]
        hosts[1].plug_it_in()
        again = [_rank(host, number, hosts[0], folder, "--resume", "auto") for number, host in enumerate(hosts)]
        with Training(folder, again) as resumed:
            resumed.finishes()
        equals(folder, uninterrupted("ot", folder.parent, 2))
    return f"exit codes {codes}, {seconds:.0f} s after the cut with a timeout of {TIMEOUT} s; resumed from step {step}"


def _agent(host: Host, folder: Path) -> Process:
    """torchrun on one of two machines, the first of which holds the meeting point."""
    first = host.address.endswith(".1")
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"10.77.0.1:{PORT}"]
    command += ["--rdzv-id", "faults", "--rdzv-conf", f"is_host={int(first)}", "--local-addr", host.address]
    multi_node = ["-c", str(ROOT / "configs" / "trainer" / "multi_node.yaml"), "--trainer.devices", "1"]
    arguments = [*options("ot", folder, hold=HOLD), *multi_node, "--trainer.accelerator", "cpu", "--resume", "auto"]
    train = [str(ROOT / "train.py"), "fit", *arguments]
    return host.spawn([*command, *train], _output(folder), {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"})


def _rank(host: Host, number: int, first: Host, folder: Path, *more: str) -> Process:
    """train.py, told its place by the variables that torchrun sets."""
    place = {"RANK": str(number), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    place |= {"GROUP_RANK": str(number), "TORCHELASTIC_RUN_ID": "faults"}
    place |= {"MASTER_ADDR": first.address, "MASTER_PORT": str(PORT)}
    several = [*DDP, "--trainer.devices", "1", "--trainer.num_nodes", "2"]
    waits = f"--trainer.strategy.init_args.timeout=0:00:{TIMEOUT}"
    command = [sys.executable, str(ROOT / "train.py"), "fit", *options("ot", folder, hold=HOLD), *several, waits, *more]
    return host.spawn(command, _output(folder), place)


def _output(folder: Path) -> Path:
    return folder / f"output.{len(list(folder.glob('output.*')))}"


def _ip(*arguments: str) -> str:
    """What `ip` prints."""
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise Missed("this row needs iproute2's `ip`") from None
    require(done.returncode == 0, f"`ip {' '.join(arguments)}` failed, it needs root: {done.stderr.strip()[:120]}")
    return done.stdout
