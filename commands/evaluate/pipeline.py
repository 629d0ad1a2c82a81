"""A diffusers pipeline folder in the place of a checkpoint: prompts in, one image per prompt out."""

import inspect
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from commands.evaluate.kept_images import KeptImage, keep_image, read_image
from commands.evaluate.partial import RunFiles
from fewstep.one_line import one_line
from fewstep.picture_size import height_and_width
from fewstep.pixels import to_uint8
from fewstep.rng import PerSampleRng


def is_pipeline(path: Path) -> bool:
    return (path / "model_index.json").is_file()


class PipelineModule(LightningModule):
    """Generates an image for each caption of a test batch: `image` [B, 3, H, W] in [-1, 1], `nfe` and `seconds` [B].

    Args:
        pipeline: of `fewstep.backbones.load_pipeline`, one that takes prompts; it is moved to the device for the test.
        steps: inference steps. guidance_scale: w >= 1, 1 is unguided (as in diffusers); None for the pipeline's own.
        seed: all noise of a sample comes from a generator seeded by (seed, key), so an image depends neither on the
            batch, nor on the order, nor on the number of processes, but for rounding.

    `nfe` counts the rows that went through the denoiser per sample, so classifier-free guidance counts twice.
    """

    def __init__(self, pipeline: Any, steps: int = 50, guidance_scale: float | None = None, seed: int = 0) -> None:
        super().__init__()
        name, known = type(pipeline).__name__, inspect.signature(type(pipeline).__call__).parameters
        if guidance_scale is not None and not 1 <= guidance_scale < math.inf:
            raise ValueError(f"--guidance-scale {guidance_scale}: must be a number of at least 1, which is unguided")
        if "prompt" not in known:
            raise ValueError(f"a {name} takes no prompts, so it cannot be measured here")
        if "guidance_scale" not in known and guidance_scale is not None:
            raise ValueError(f"a {name} takes no guidance scale; leave --guidance-scale out")
        denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
        size = getattr(getattr(denoiser, "config", None), "sample_size", None)
        try:
            height, width = (n * getattr(pipeline, "vae_scale_factor", 1) for n in height_and_width(size))
        except ValueError:
            stated = "no sample_size" if size is None else f"the sample_size {one_line(str(size), 40)}, which is none"
            raise ValueError(f"the denoiser of this {name} states {stated}, so the image size is not known") from None
        # In a tuple, so that nothing of it becomes a submodule or ends in a checkpoint.
        self._held, self.image_size = (pipeline, denoiser), (height, width)
        default = known["guidance_scale"].default if "guidance_scale" in known else None
        w = default if guidance_scale is None else guidance_scale
        self.settings = {"steps": steps, "guidance_scale": w, "seed": seed}
        self._given: dict[str, Any] = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
        if height != width:  # of which most pipelines make no default
            if not {"height", "width"} <= set(known):
                raise ValueError(f"a {name} takes no height and width, so it cannot draw {height} x {width} pixels")
            self._given |= {"height": height, "width": width}
        self.kept: RunFiles | None = None

    @property
    def pipeline(self) -> Any:
        return self._held[0]

    def on_test_start(self) -> None:
        self.pipeline.to(self.trainer.strategy.root_device)
        self.pipeline.set_progress_bar_config(disable=True)

    def on_test_end(self) -> None:
        self.pipeline.to("cpu")  # the next one may need the room

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        rows = len(batch["key"])
        counts = (batch["weight"] > 0).tolist()
        pairs = zip(batch["key"], counts, strict=True)
        kept = [read_image(self.kept, key) if self.kept and counted else None for key, counted in pairs]
        wanted = [i for i in range(rows) if counts[i] and kept[i] is None]
        if wanted:
            made = self._generate([batch["key"][i] for i in wanted], [batch["caption"][i] for i in wanted])
            for i, image in zip(wanted, made, strict=True):
                kept[i] = image
        blank = KeptImage(torch.zeros(3, *self.image_size, dtype=torch.uint8).numpy(), 0.0, 0.0)
        whole = [image or blank for image in kept]
        pixels = torch.stack([torch.from_numpy(image.pixels) for image in whole]).to(batch["weight"].device)
        numbers = {name: torch.tensor([getattr(image, name) for image in whole]) for name in ("nfe", "seconds")}
        return {"image": pixels.float() / 127.5 - 1, **{k: v.to(pixels.device) for k, v in numbers.items()}}

    def _generate(self, keys: list[str], prompts: list[str]) -> list[KeptImage]:
        start = time.perf_counter()
        generators = PerSampleRng(self.settings["seed"], keys).generators
        with torch.no_grad(), counted(self._held[1]) as passes:
            result = self.pipeline(
                prompts,
                num_inference_steps=self.settings["steps"],
                generator=generators,
                output_type="pt",
                **self._given,
            )
        images = result.images  # [B, 3, H, W] in [0, 1]
        if images.shape[1:] != (3, *self.image_size):
            raise ValueError(f"the pipeline made images {list(images.shape[1:])}, expected {[3, *self.image_size]}")
        pixels = to_uint8(images.float() * 2 - 1).cpu().numpy()
        seconds, nfe = (time.perf_counter() - start) / len(keys), passes[0] / len(keys)
        made = [KeptImage(image, nfe, seconds) for image in pixels]
        if self.kept:
            for key, image in zip(keys, made, strict=True):
                keep_image(self.kept, key, image)
        return made


@contextmanager
def counted(denoiser: torch.nn.Module) -> Iterator[list[int]]:
    """[rows that went through the network so far]"""
    passes = [0]

    def count(_: Any, arguments: tuple, named: dict[str, Any]) -> None:
        first = arguments[0] if arguments else named.get("sample", named.get("hidden_states"))
        passes[0] += len(first)

    hook = denoiser.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()
