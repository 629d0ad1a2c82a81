"""StepSeed: randomness is a function of (seed, rank, step, batch)."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from callbacks import StepSeed
from callbacks.care.step_seed import mix

MODULE = SimpleNamespace(device=torch.device("cpu"))


def draws(seed: int, rank: int = 0, step: int = 0, batch_idx: int = 0) -> tuple[float, float, float]:
    trainer = SimpleNamespace(global_rank=rank, global_step=step)
    StepSeed(seed).on_train_batch_start(trainer, MODULE, None, batch_idx)
    return torch.rand(()).item(), float(np.random.rand()), random.random()


def test_same_place_same_numbers_whatever_was_drawn_before():
    first = draws(7, step=3)
    torch.rand(100), np.random.rand(5), random.random()
    assert draws(7, step=3) == first


@pytest.mark.parametrize("change", [{"rank": 1}, {"step": 4}, {"batch_idx": 1}])
def test_rank_step_and_batch_all_matter_for_all_three_generators(change):
    pairs = zip(draws(7, **{"step": 3} | change), draws(7, step=3), strict=True)
    assert all(a != b for a, b in pairs)


def test_seed_comes_from_seed_everything_if_not_given(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "41")
    callback = StepSeed()
    callback.on_train_start(None, None)
    assert callback.seed == 41


@pytest.mark.parametrize(("stored", "lines"), [(7, 0), (8, 1), (None, 0)])
def test_another_seed_than_that_of_the_checkpoint_is_said_once(capsys, stored, lines):
    callback = StepSeed(7)
    callback.load_state_dict({"seed": stored})
    callback.on_train_start(SimpleNamespace(is_global_zero=True), None)
    assert capsys.readouterr().err.count("seed  8 until the checkpoint, 7 from now on") == lines
    assert callback.state_dict() == {"seed": 7}


def test_mix_flips_half_of_the_bits_and_never_collides_on_a_grid():
    values = {mix(s, r, k, b) for s in range(4) for r in range(4) for k in range(64) for b in range(4)}
    assert len(values) == 4 * 4 * 64 * 4
    flipped = [(mix(0, 0, k, 0) ^ mix(0, 0, k + 1, 0)).bit_count() for k in range(200)]
    assert 30 < sum(flipped) / len(flipped) < 34
