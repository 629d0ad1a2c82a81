"""Prompts from a file in the place of test data: one image for each, by a pipeline or by a module that draws."""

import inspect
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from fewstep.files.text_files import numbered_lines, read_text
from fewstep.rng import PerSampleRng


def answer_prompts(module: LightningModule, seed: int, steps: int | None, guidance_scale: float | None) -> None:
    """Make `module.test_step` draw an `image` for each prompt: by its own `generate_images(prompts, rng, **options)`.

    That returns [B, 3, H, W] in [-1, 1]. The noise of a sample comes from (seed, key), whatever its batch. Options are
    `num_steps` and `guidance_scale` (1 is unguided), where given. ValueError in one line if the module lacks any.
    """
    name, draw = type(module).__name__, getattr(module, "generate_images", None)
    if draw is None:
        raise ValueError(f"a {name} draws no pictures from prompts alone; leave --prompts out")
    known = inspect.signature(draw).parameters
    options: dict[str, Any] = {}
    for flag, option, value in (
        ("steps", "num_steps", steps),
        ("guidance-scale", "guidance_scale", guidance_scale),
    ):
        if value is not None and option not in known:
            raise ValueError(f"--{flag} {value}: the {name} of this checkpoint takes no {option}; leave it out")
        options |= {} if value is None else {option: value}

    def test_step(batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        rng = PerSampleRng(seed, batch["key"], module.device)
        with torch.no_grad():
            return {"image": draw(batch["caption"], rng, **options)}

    module.test_step = test_step  # type: ignore[method-assign]
    settings = {"steps": steps, "guidance_scale": guidance_scale, "seed": seed}
    module.settings = {key: value for key, value in settings.items() if value is not None}  # type: ignore[assignment]


class PromptData(LightningDataModule):
    """Test batches of prompts alone: `caption`, `key` and `weight` [B]; rank r of n has prompts r, r + n, ..."""

    def __init__(self, file: Path, num_samples: int | None, batch_size: int) -> None:
        super().__init__()
        self.prompts, self.batch_size = read_prompts(file, num_samples), batch_size

    def test_dataloader(self) -> DataLoader:
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        size = len(self.prompts)
        rows = range(rank, -(-size // world) * world, world)
        batches = [self._batch(rows[i : i + self.batch_size], size) for i in range(0, len(rows), self.batch_size)]
        return DataLoader(batches, batch_size=None)

    def _batch(self, rows: range, size: int) -> dict[str, Any]:
        samples = [self.prompts[row % size] for row in rows]
        weight = torch.tensor([float(row < size) for row in rows])
        return {"key": [key for key, _ in samples], "caption": [prompt for _, prompt in samples], "weight": weight}


def read_prompts(file: Path, num_samples: int | None) -> list[tuple[str, str]]:
    """[(key, prompt)]: the lines that are not blank, from the first again where more samples are wanted.

    The key is the line's number, and .2, .3, ... at each repetition. ValueError in one line.
    """
    try:
        lines = list(numbered_lines(read_text(file)))
    except ValueError as error:
        raise ValueError(f"--prompts {error}") from None
    if not lines:
        raise ValueError(f"--prompts {file} holds no prompt; write one per line")
    prompts = []
    for i in range(num_samples or len(lines)):
        (number, prompt), turn = lines[i % len(lines)], i // len(lines)
        prompts.append((f"{number:06d}.{turn + 1}" if turn else f"{number:06d}", prompt))
    return prompts
