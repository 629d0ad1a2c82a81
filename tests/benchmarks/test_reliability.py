"""The fault matrix: that it sees what is broken, and a few of its rows on real processes."""

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks.reliability import key_log, promises, run, table
from benchmarks.reliability.matrix import KILLED, MATRIX, Row
from benchmarks.reliability.methods import CONFIGS, SMALL
from benchmarks.reliability.promises import Missed
from tests.patience import PATIENCE
from tests.test_configs import FITS

ROOT = Path(run.__file__).parents[2]
ROWS = ["elastic_2_1_2", "sigkill_in_write", "sigterm_alone", "disk_full", "resumed_weather", "hostile_shard"]


@pytest.mark.slow
def test_a_few_rows_on_real_processes(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "reliability" / "run.py"), "--trials", "1", "--only", *ROWS]
    results = tmp_path / "results.jsonl"
    done = subprocess.run([*command, "--out", str(results)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert {line["row"] for line in lines} >= set(ROWS)
    assert all(line["kept"] for line in lines)


def test_broken_promises_give_exit_code_1_and_nothing_is_tried_twice(tmp_path, monkeypatch, capsys):
    tried = []

    def trial(folder, number, rng):
        tried.append(number)
        if number == 1:
            raise Missed("not kept\nin two lines")
        return f"drew {rng.random()}"

    row = Row("some_fault", "something", 3, trial, chance=True)
    monkeypatch.setattr(run, "preload", lambda: None)
    monkeypatch.setattr(table, "MATRIX", [row])
    options = Namespace(out=tmp_path / "results.jsonl", trials=None, seed=0, markdown=True)
    assert run.run([row], options, tmp_path) == 1
    assert run.run([row], options, tmp_path) == 1
    assert tried == [0, 1, 2]
    assert "| some_fault | something | 2/3 | 86 % |" in capsys.readouterr().out
    options.out, row = tmp_path / "others.jsonl", row._replace(trials=1)
    assert run.run([row], options, tmp_path) == 0


def test_every_config_that_trains_is_killed_and_resumed():
    assert {ROOT / "configs" / f"{name}.yaml" for name in CONFIGS.values()} == set(FITS)
    assert SMALL.keys() == CONFIGS.keys()


def test_the_bound_is_clopper_and_pearsons():
    assert table.largest_rate(0, 50) == pytest.approx(1 - 0.05 ** (1 / 50))
    assert table.largest_rate(49, 50) == pytest.approx(0.95 ** (1 / 50))  # 1 - P(no success) = 0.95
    assert table.largest_rate(3, 3) == 1.0


def test_rows_have_names_of_their_own_and_as_many_kills_as_are_asked_for():
    names = [row.name for row in MATRIX]
    assert len(set(names)) == len(names)
    assert sum(row.trials for row in KILLED) >= 50


@pytest.fixture
def log(tmp_path):
    """A run of two ranks that did step 1, died before step 2 counted, and was gone on with by one rank."""

    def write(rank, world, step, keys):
        with Path(f"{tmp_path}/keys.{rank}").open("a") as file:
            file.write(json.dumps({"step": step, "rank": rank, "world": world, "keys": keys}) + "\n")

    for step in range(3):
        write(0, 2, step, [4 * step, 4 * step + 2])
        write(1, 2, step, [4 * step + 1, 4 * step + 3])
    write(0, 1, 2, [8, 9, 10, 11])
    write(0, 1, 3, [12, 13, 14, 15])
    return tmp_path / "keys"


def test_batches_are_put_together_from_the_ranks_that_did_a_step_last(log):
    assert key_log.batches(log, 4) == [list(range(4 * step, 4 * step + 4)) for step in range(4)]
    assert key_log.newest_step(log) == 3


def test_steps_that_nobody_did_are_missed(log):
    with pytest.raises(Missed, match=r"steps \[4\] is missing"):
        key_log.batches(log, 5)


def state(value):
    parts = {"global_step": 3, "epoch": 0, "optimizer_states": [{"state": {0: {"step": 3}}}], "lr_schedulers": []}
    return parts | {"state_dict": {"w": torch.tensor([1.0, value])}, "callbacks": {}}


def test_one_bit_of_a_weight_is_a_difference():
    promises.same_state(state(2.0), state(2.0))
    with pytest.raises(Missed, match=r"state_dict\.w differs"):
        promises.same_state(state(2.0), state(2.0 + 2**-22))


def test_one_infinity_in_a_state_is_found():
    promises.finite(state(2.0))
    with pytest.raises(Missed, match=r"checkpoint\.state_dict\.w is not finite"):
        promises.finite(state(float("inf")))


def test_a_checkpoint_cut_short_does_not_count_as_one(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save(state(2.0), folder / "last.ckpt")
    whole = (folder / "last.ckpt").read_bytes()
    (folder / "newer.ckpt").write_bytes(whole[: len(whole) // 2])
    assert promises.loadable(tmp_path) == [folder / "last.ckpt"]
    os.remove(folder / "last.ckpt")
    with pytest.raises(Missed, match="no checkpoint"):
        promises.loadable(tmp_path)
