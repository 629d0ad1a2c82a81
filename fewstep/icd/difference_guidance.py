"""Guidance as a difference: what it adds to the target less what it adds to the source."""

import torch
from torch import Tensor

from fewstep.diffusion.guidance import Condition, Denoiser


class DifferenceGuidance:
    """A denoiser that answers eps(x, 1, source) + eps(x, w, target) - eps(x, w, source): three rows for one, one call.

    Guidance by a scale moves a picture even where nothing is to change. Here that part is taken away again: with the
    source for a target the last two cancel, so decoding is the unguided reconstruction whatever w is. Linear in the
    answers, hence the same for every kind of prediction. An addition of fewstep's to iCD; in the form of delta
    denoising (Hertz et al. 2023), which subtracts a reference's branch alike.

    source: its condition, each [B, ...], for the last B rows of every call. Rows before them are passed on.
    """

    def __init__(self, denoiser: Denoiser, source: Condition, rows: int) -> None:
        self.denoiser, self.source, self.rows = denoiser, source, rows

    def __call__(self, x: Tensor, t: Tensor, guidance_scale: Tensor, condition: Condition) -> Tensor:
        """[N, ...] for x [N, ...], t [N], guidance_scale [N] and the target's condition in the last B of N rows."""
        before, rows = len(x) - self.rows, self.rows

        def asked(first: Tensor, plain: Tensor, guided: Tensor) -> Tensor:
            """Of the target, last: Watch takes the last row for the edited one."""
            return torch.cat([first[:before], plain, guided, first[before:]])

        own, scale = x[before:], guidance_scale[before:]
        prompts = {key: asked(value, self.source[key], self.source[key]) for key, value in condition.items()}
        output = self.denoiser(
            asked(x, own, own),
            asked(t, t[before:], t[before:]),
            asked(guidance_scale, torch.ones_like(scale), scale),
            prompts,
        )
        passed, plain, guided, target = output.split([before, rows, rows, rows])
        return torch.cat([passed, plain + (target - guided)])
