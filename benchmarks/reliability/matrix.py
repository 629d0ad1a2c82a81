"""The fault matrix: one row for each fault, with what is promised and how often it is tried."""

import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.reliability import (
    bad_numbers,
    checkpoint_writes,
    dead_processes,
    elastic,
    full_disks,
    hostile_files,
    killed_runs,
    step_cost,
    stopped_runs,
    two_hosts,
    wandb_down,
)
from benchmarks.reliability.methods import CONFIGS

Trial = Callable[[Path, int, random.Random], str]  # folder, number of the trial -> what was seen; raises Missed


class Row(NamedTuple):
    name: str
    promise: str
    trials: int
    trial: Trial
    chance: bool = False  # the moment of the fault is drawn anew in each trial, so that a bound makes sense


EXACT = "final weights, samples and losses equal to the undisturbed run"
SAVED = "saved at once, exit 143, resume exact"
ENDS = "every rank ends, not with 0; checkpoint from before, resume exact"
FINISHES = "the run finishes as without W&B"

KILLED = [
    Row(f"sigkill_{method}", f"ranks 1, 2 x workers: {EXACT}", trials, partial(killed_runs.killed_once, method), True)
    for method, trials in (("ot", 16), ("contrastive", 32), ("icd", 8))
]
RESUMED = [
    Row(
        f"resumed_{config}",
        f"killed at five kinds of moment: {EXACT}",
        len(killed_runs.MOMENTS),
        partial(killed_runs.resumed, config),
    )
    for config in CONFIGS
]
STOPPED = [
    Row(f"{name}_{who}", SAVED, 3, partial(stopped_runs.stopped, number=number, ranks=ranks, targets=targets), True)
    for name, number in (("sigterm", signal.SIGTERM), ("sigusr1", signal.SIGUSR1))
    for who, ranks, targets in (("alone", 1, ()), ("rank_0", 2, (0,)), ("rank_1", 2, (1,)), ("all", 2, ()))
]
TWICE = partial(stopped_runs.stopped, twice=True)
SLURM = partial(stopped_runs.stopped, number=signal.SIGUSR1, code=75, environment={"SLURM_JOB_ID": "7"})
CTRL_C = partial(stopped_runs.stopped, number=signal.SIGINT, code=130)
DEAD_RANKS = [
    Row(
        f"rank_{rank}_killed_{'launched' if launched else 'placed'}",
        ENDS,
        1,
        partial(dead_processes.rank_killed, rank=rank, launched=launched),
    )
    for rank in (0, 1)
    for launched in (False, True)
]

MATRIX = [
    *KILLED,
    *RESUMED,
    Row("accumulated", f"1, 2, 3, 5 batches a step, ranks 1, 2: {EXACT}", 8, killed_runs.accumulating, True),
    Row("sigkill_in_write", "one that loads is there, and resumed", 20, checkpoint_writes.killed_in_a_write, True),
    *STOPPED,
    Row("sigterm_twice_alone", SAVED, 3, TWICE, True),
    Row("sigterm_twice_all", SAVED, 3, partial(TWICE, ranks=2), True),
    Row("sigterm_during_setup", "exit 143 at once", 5, stopped_runs.stopped_during_setup, True),
    Row("sigusr1_slurm", "saved at once, exit 75 to be queued again", 1, SLURM),
    Row("sigint_alone", "saved at once, exit 130", 1, CTRL_C),
    Row("disk_full", "one line, exit 1, checkpoint from before", 1, full_disks.disk_full),
    Row("disk_full_warned", "the run goes on", 1, full_disks.disk_full_warned),
    Row("read_only", "one line, exit 1, checkpoint from before", 1, full_disks.read_only),
    Row("read_only_at_start", "one line, exit 2", 1, full_disks.read_only_at_start),
    Row("nan_once", "skipped, counted and recorded; finite checkpoints", 2, bad_numbers.nan_once),
    Row("nan_on_rank_1", "both ranks skip", 1, partial(bad_numbers.nan_once, ranks=2, rank=1)),
    Row("nan_for_ever", "one line, exit 1; finite checkpoints", 1, bad_numbers.nan_for_ever),
    Row("worker_killed", f"replaced; {EXACT}", 3, dead_processes.worker_killed, True),
    Row("workers_killed_for_ever", "one line, exit 1, checkpoint whole", 1, dead_processes.workers_killed_for_ever),
    *DEAD_RANKS,
    Row("machine_replaced", f"torchrun goes on with another; {EXACT}", 1, two_hosts.machine_replaced),
    Row("network_cut", ENDS, 1, two_hosts.network_cut),
    Row("wandb_down_at_start", FINISHES, 1, wandb_down.down_at_start),
    Row("wandb_dies", FINISHES, 1, partial(wandb_down.fails_in_the_middle, number=signal.SIGKILL)),
    Row("wandb_hangs", FINISHES, 1, partial(wandb_down.fails_in_the_middle, number=signal.SIGSTOP)),
    Row("wandb_disk_full", FINISHES, 1, wandb_down.disk_full),
    Row("elastic_2_1_2", "killed in between; every sample once, in order", 5, elastic.two_one_two, True),
    Row("curves_ot", "ranks 1 and 2: losses within 1e-5", 1, partial(elastic.equal_curves, "ot")),
    Row("curves_contrastive", "ranks 1 and 2: losses within 1e-5", 1, partial(elastic.equal_curves, "contrastive")),
    Row("hostile_checkpoint", "nothing runs", 1, hostile_files.hostile_checkpoint),
    Row("hostile_shard", "nothing runs", 1, hostile_files.hostile_shard),
    Row("step_cost", "at most 0.4 of a short step more than a bare loop", 1, step_cost.fixed_cost),
    Row("long_step_cost", "of a step of 75 ms at most twice that of a short one", 1, step_cost.of_a_long_step),
]
