"""Randomness as a function of the step, so that a resumed run sees the same noise."""

import random
import sys

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fewstep.rng import run_seed

_MASK = 2**64 - 1


def mix(*numbers: int) -> int:
    """One 64-bit number from several; neighbouring inputs give unrelated outputs.

    Source: the finaliser of SplitMix64, Steele, Lea and Flood (2014).
    """
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


class StepSeed(Callback):
    """Seed torch, numpy and random from (seed, rank, global step, batch index) before each training batch.

    No generator state is stored: step k draws the same numbers whether the run reached it directly or was resumed, and
    whatever validation drew in between. Loader workers have generators of their own: the datamodules make each draw a
    function of (seed, pass, sample). seed: None takes the value of `seed_everything`, 0 if that is off. The checkpoint
    keeps the seed only to say when a resumed run has another one.
    Source: the per-step reseeding of Karras et al. (2024), training_loop.py.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        self._stored: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.seed is None:
            self.seed = run_seed()
        if self._stored not in (None, self.seed) and trainer.is_global_zero:
            text = f"seed  {self._stored} until the checkpoint, {self.seed} from now on: the noise is another one"
            print(text, file=sys.stderr)

    def state_dict(self) -> dict[str, int | None]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, int | None]) -> None:
        self._stored = state_dict["seed"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        # The batch index tells apart the batches of one accumulated step.
        assert self.seed is not None
        value = mix(self.seed, trainer.global_rank, trainer.global_step, batch_idx)
        # torch.manual_seed would take 0.3 ms and, without a GPU in use, remember every call.
        torch.default_generator.manual_seed(value >> 1)
        if pl_module.device.type != "cpu":
            torch.get_device_module(pl_module.device).manual_seed(value >> 1)
        random.seed(value)
        np.random.seed(value & 0xFFFFFFFF)
