"""What the demo page answers: pictures, and one line of what they cost or of what went wrong. Knows no gradio."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from fewstep.demo.fields import given_number, given_options, given_seed
from fewstep.diffusion.guidance import require_trained
from fewstep.files.pictures import read_mask, read_picture, to_picture
from fewstep.icd.commands import psnr
from fewstep.icd.editing import Editing
from fewstep.icd.pair import InvertibleConsistency
from fewstep.icd.watched_pair import Watch
from fewstep.one_line import one_line
from fewstep.rng import PerSampleRng

Drawn = dict[str, Any] | None
Answer = tuple[Image.Image | None, list[tuple[Image.Image, str]], str]  # picture, (picture, its label), told


class Done(NamedTuple):
    """image [1, 3, H, W]; views: (image, label) of what stands below it, None for what the decoder expected."""

    image: Tensor
    told: str = ""
    views: list[tuple[Tensor, str]] | None = None


Work = Callable[[InvertibleConsistency], Done]


@dataclass(frozen=True)
class Answers:
    """A pair that answers the page. Every answer is (picture, pictures of the steps, told); on a mistake the pictures
    are missing and what is told begins with "Error"."""

    pair: InvertibleConsistency
    device: str = "cpu"

    def generate(self, prompt: str, guidance_scale: float, guided_below: float, seed: float | None) -> Answer:
        def work(pair: InvertibleConsistency) -> Done:
            words = _given(prompt, "the prompt")
            rng = PerSampleRng(given_seed(seed), [words], self.device)
            scale, below = given_number(guidance_scale, "Guidance scale"), given_number(guided_below, "Guided below")
            return Done(pair.generate([words], rng, scale, below))

        return self._answer(work)

    def invert(self, image: Image.Image | None, source: str, seed: float | None) -> Answer:
        def work(pair: InvertibleConsistency) -> Done:
            pixels, words = self._read(image), [_given(source, "the description of the picture")]
            code = pair.encode(pixels, words, self._rng(seed))[-1]
            decoded = pair.decode(code, words)
            spread = f"code: mean {code.mean():+.2f}, deviation {code.std():.2f} (noise has 0 and 1)"
            return Done(decoded, f"reconstruction {psnr(decoded, pixels):.1f} dB · {spread}")

        return self._answer(work)

    def edit(self, drawn: Drawn, source: str, target: str, seed: float | None, **options: Any) -> Answer:
        """drawn: `background`, the picture, and `layers`, what was painted on it, as gradio's ImageEditor has them."""

        def work(pair: InvertibleConsistency) -> Done:
            editing = Editing(**given_options(options))
            _, (edited,), told = self._edited(pair, drawn, source, target, seed, editing, [editing.guidance_scale])
            return Done(edited, told)

        return self._answer(work)

    def strengths(self, drawn: Drawn, source: str, target: str, seed: float | None, **options: Any) -> Answer:
        """The edit, and below it the picture and its edits at every guidance scale of the pair, in rising order."""

        def work(pair: InvertibleConsistency) -> Done:
            editing, scales = Editing(**given_options(options)), sorted(pair.guidance_scales)
            require_trained(editing.guidance_scale, scales)
            pixels, edited, told = self._edited(pair, drawn, source, target, seed, editing, scales)
            views = [(image, f"w = {scale:g}") for image, scale in zip(edited, scales, strict=True)]
            nearest = min(range(len(scales)), key=lambda row: abs(scales[row] - editing.guidance_scale))
            return Done(edited[nearest], told, [(pixels, "source"), *views])

        return self._answer(work)

    def _edited(
        self,
        pair: InvertibleConsistency,
        drawn: Drawn,
        source: str,
        target: str,
        seed: float | None,
        editing: Editing,
        scales: Sequence[float],
    ) -> tuple[Tensor, tuple[Tensor, ...], str]:
        """(the picture, its edits at these scales, one batch and one noise, told); pictures [1, 3, H, W]."""
        image, rows = (drawn or {}).get("background"), len(scales)
        pixels = self._read(image)
        old, new = _given(source, "the description of the picture"), _given(target, "the target")
        painted = painted_mask((drawn or {}).get("layers") or [], image)
        mask = read_mask(painted, image, self.pair.model.image_size).to(self.device) if image and painted else None
        rng = PerSampleRng(given_seed(seed), ["picture"] * rows, self.device)
        edited = pair.edit(pixels.expand(rows, -1, -1, -1), [old] * rows, [new] * rows, rng, editing, mask, scales)
        return pixels, edited.split(1), "only where you painted" if mask is not None else ""

    def _answer(self, work: Work) -> Answer:
        watch, began = Watch(), time.perf_counter()
        try:
            done = work(watch.pair(self.pair))
        except ValueError as error:
            return None, [], f"Error: {one_line(error, 800)}"
        seconds = time.perf_counter() - began
        steps = [(view, f"t = {t:.2f}") for t, view in watch.pictures(self.pair)] if done.views is None else done.views
        cost = f"{watch.calls} network calls · {seconds:.2f} s"
        told = f"{cost} · {done.told}" if done.told else cost
        return to_picture(done.image), [(to_picture(view), label) for view, label in steps], told

    def _read(self, image: Image.Image | None) -> Tensor:
        if image is None:
            raise ValueError("choose a picture first")
        return read_picture(image, self.pair.model.image_size).to(self.device)

    def _rng(self, seed: float | None) -> PerSampleRng:
        return PerSampleRng(given_seed(seed), ["picture"], self.device)


def painted_mask(layers: list[Image.Image], like: Image.Image | None) -> Image.Image | None:
    """White where any layer is painted on, however thinly, or None where nothing is; of the size of the picture."""
    painted = [np.asarray(layer.convert("RGBA"))[..., 3] > 63 for layer in layers]
    if like is None or not any(layer.any() for layer in painted):
        return None
    mask = Image.fromarray(np.logical_or.reduce(painted).astype(np.uint8) * 255)
    return mask if mask.size == like.size else ImageOps.fit(mask, like.size)


def _given(text: str | None, what: str) -> str:
    if not (text or "").strip():
        raise ValueError(f"{what} is empty; write what it shall be, in words")
    return (text or "").strip()
