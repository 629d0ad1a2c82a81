"""What is measured of an edited picture: its structure, what is outside the edit, and what the target's caption says.

The measures of PIE-Bench (Ju et al. 2023, arXiv 2310.01506), as its own evaluation takes them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.metrics.background import MOST_PSNR, SqueezeLPIPS, background_values
from fewstep.metrics.features import full_float32
from fewstep.metrics.perceptual import LPIPS
from fewstep.metrics.structure import StructureDistance
from fewstep.pixels import to_uint8
from fewstep.rewards.clip_scores import CLIPSimilarity

BACKGROUND = {  # by the name in background.py
    "psnr": "psnr_background",
    "ssim": "ssim_background",
    "mse": "mse_background",
    "lpips": "lpips_background",
}
CLIP_SCALE = 100.0


@dataclass(frozen=True)
class EditScores:
    """lpips: (images, references) in [-1, 1] -> [B], with a protocol. clip: its own scale is left out: 100 cosine."""

    lpips: Any
    structure: StructureDistance
    clip: CLIPSimilarity

    def to(self, device: torch.device | str) -> "EditScores":
        for network in (self.lpips, self.structure, self.clip.model):
            network.to(device)
        return self

    @torch.no_grad()
    def __call__(
        self, edited: Tensor, source: Tensor, mask: Tensor, captions: list[str], truth: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{name: [B]} of pictures [B, 3, H, W] in [-1, 1], as 8 bits hold them; NaN where a mask leaves nothing.

        mask: [B, 1, H, W], 1 where the edit is. captions: of the targets. truth: the true edits, if there are any.
        """
        images, sources = to_uint8(edited), to_uint8(source)
        with full_float32(images.device):
            found = background_values(images, sources, mask, self.lpips)
            values = {name: found[short] for short, name in self.background.items()}
            values[self.structure.name] = self.structure(images, sources)
            part = images * mask.to(images)
            words = self.clip.embed_prompts(captions)
            for name, shown in (("clip_similarity", images), ("clip_similarity_edited", part)):
                values[name] = CLIP_SCALE * (self.clip.embed_images(shown.float() / 127.5 - 1) * words).sum(1)
            whole = mask.flatten(1).sum(1) > 0
            values["clip_similarity_edited"] = values["clip_similarity_edited"].where(whole, torch.nan)
            if truth is not None:
                error = (images.float() - to_uint8(truth).float()).div(255).square().mean((1, 2, 3))
                values["psnr_true_edit"] = (-10 * error.log10()).clamp(max=MOST_PSNR)
        return {name: value.double().cpu() for name, value in values.items()}

    @property
    def background(self) -> dict[str, str]:
        """Names of the measures outside the mask."""
        kind = self.lpips.protocol["network"]
        return BACKGROUND if kind == "alex" else BACKGROUND | {"lpips": f"lpips_{kind}_background"}

    @property
    def protocol(self) -> dict[str, dict[str, Any]]:
        """How each was taken."""
        told: dict[str, dict[str, Any]] = {name: {"features": "8-bit pixels"} for name in self.background.values()}
        told[self.background["lpips"]] = {"features": dict(self.lpips.protocol)}
        told[self.structure.name] = {"features": dict(self.structure.protocol)}
        clip = {"network": self.clip.cut_prompts.scorer, "scale": CLIP_SCALE}
        return told | {name: {"features": clip} for name in ("clip_similarity", "clip_similarity_edited")}


def load_lpips(network: str = "alex") -> nn.Module:
    """ "alex", "vgg" or "squeeze"; ValueError in one line for another, or where its weights are not to be had."""
    return SqueezeLPIPS() if network == "squeeze" else LPIPS(network)
