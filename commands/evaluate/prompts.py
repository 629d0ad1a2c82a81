"""Prompts from a file in the place of test data: one image for each, by a pipeline or by a module that draws."""

import inspect
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules import request_files
from datamodules.topology import topology
from fewstep.rng import PerSampleRng


def answering_prompts(
    kind: type[LightningModule], seed: int, steps: int | None, guidance_scale: float | None
) -> type[LightningModule]:
    """The same class, but `test_step` draws an `image` for each prompt: by `generate_images(prompts, rng, **options)`.

    That returns [B, 3, H, W] in [-1, 1]. The noise of a sample comes from (seed, key), whatever its batch. Options are
    `num_steps` and `guidance_scale` (1 is unguided), where given. ValueError in one line if the class lacks any.
    """
    name, draw = kind.__name__, getattr(kind, "generate_images", None)
    if draw is None:
        raise ValueError(f"a {name} draws no pictures from prompts alone; leave --prompts out")
    known = inspect.signature(draw).parameters
    given = {"num_steps": ("steps", steps), "guidance_scale": ("guidance-scale", guidance_scale)}
    for option, (flag, value) in given.items():
        if value is not None and option not in known:
            raise ValueError(f"--{flag} {value}: the {name} of this checkpoint takes no {option}; leave it out")
    options = {option: value for option, (_, value) in given.items() if value is not None}

    chosen = {"steps": steps, "guidance_scale": guidance_scale, "seed": seed}

    class Answering(kind):
        settings: ClassVar = {key: value for key, value in chosen.items() if value is not None}  # for the report

        def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
            rng = PerSampleRng(seed, batch["key"], self.device)
            with torch.no_grad():
                return {"image": self.generate_images(batch["caption"], rng, **options)}

    Answering.__module__, Answering.__qualname__, Answering.__name__ = kind.__module__, kind.__qualname__, kind.__name__
    return Answering


class PromptData(LightningDataModule):
    """Test batches of prompts alone: `caption`, `key` and `weight` [B]; rank r of n has prompts r, r + n, ..."""

    def __init__(self, file: Path, num_samples: int | None, batch_size: int) -> None:
        super().__init__()
        self.prompts, self.batch_size = read_prompts(file, num_samples), batch_size

    def test_dataloader(self) -> DataLoader:
        rank, world = topology(self.trainer)
        size = len(self.prompts)
        rows = range(rank, -(-size // world) * world, world)
        batches = [self._batch(rows[i : i + self.batch_size], size) for i in range(0, len(rows), self.batch_size)]
        return DataLoader(batches, batch_size=None)

    def _batch(self, rows: range, size: int) -> dict[str, Any]:
        samples = [self.prompts[row % size] for row in rows]
        weight = torch.tensor([float(row < size) for row in rows])
        return {"key": [key for key, _ in samples], "caption": [prompt for _, prompt in samples], "weight": weight}


def read_prompts(file: Path, num_samples: int | None) -> list[tuple[str, str]]:
    """[(key, prompt)] of the lines that are not blank, from the first again where more samples are wanted.

    Keys are those of `train.py predict`, and end in .2, .3, ... at each repetition. ValueError in one line.
    """
    try:
        lines = [(request.key, request.source) for request in request_files.read_prompts(file)]
    except ValueError as error:
        raise ValueError(f"--prompts {error}") from None
    prompts = []
    for i in range(num_samples or len(lines)):
        (key, prompt), turn = lines[i % len(lines)], i // len(lines)
        prompts.append((f"{key}.{turn + 1}" if turn else key, prompt))
    return prompts
