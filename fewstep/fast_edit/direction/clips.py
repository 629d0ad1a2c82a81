"""The CLIPs of an edit's loss, named in one word each, and how small drawings are shown to them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fewstep.choices import require_range
from fewstep.fast_edit.direction.edit_loss import EditLoss, EditLossOptions
from fewstep.fast_edit.direction.image_towers import put_image_tower, split_off_tower
from fewstep.fast_edit.direction.text_direction import text_direction
from fewstep.rewards.clip_scores import CLIPSimilarity, load_clip


class EnlargingCLIP(CLIPSimilarity):
    """A CLIP that sees every pixel of a picture `factor` times in each direction: small drawings as they are shown.

    Its own preprocessing would smooth them (bicubic), into pictures that it was not trained on.
    """

    def __init__(self, clip: CLIPSimilarity, factor: int) -> None:
        require_range("enlarge", factor, 1)
        super().__init__(clip.model, clip.tokenizer, clip.preprocessing, clip.scale, clip.differentiable)
        self.factor = factor

    def embed_images(self, images: Tensor) -> Tensor:
        return super().embed_images(images.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3))


def load_edit_clip(source: str | Path, enlarge: int = 1) -> CLIPSimilarity:
    """For a loss: frozen, differentiable, float32 on the CPU.

    source: a folder, "hf-hub:owner/name", or "MODEL:WEIGHTS" with an open_clip name and a tag or file of weights, such
    as "ViT-B-16-quickgelu:openai"; each may be followed by "+FILE", the weights of another image tower (see
    put_image_tower). enlarge: see EnlargingCLIP. ValueError in one line.
    """
    require_range("enlarge", enlarge, 1)
    text, tower = split_off_tower(str(source))
    model, _, weights = text.partition(":")
    if Path(text).is_dir():
        clip = load_clip(f"local-dir:{text}", None, differentiable=True)
    elif model in ("hf-hub", "local-dir"):
        clip = load_clip(text, None, differentiable=True)
    elif weights:
        clip = load_clip(model, weights, differentiable=True)
    else:
        told = "give a folder, hf-hub:owner/name or MODEL:WEIGHTS such as ViT-B-16-quickgelu:openai"
        raise ValueError(f"there is no CLIP {text!r}: {told}")
    if tower is not None:
        put_image_tower(clip, tower)
    return clip if enlarge == 1 else EnlargingCLIP(clip, enlarge)


def edit_loss(
    clips: Sequence[CLIPSimilarity],
    source: str | Sequence[str],
    target: str | Sequence[str],
    templates: str | Sequence[str] = "imagenet",
    options: EditLossOptions | None = None,
    device: torch.device | str = "cpu",
) -> EditLoss:
    """The loss of the edit from these texts to those, for each of the CLIPs its own direction."""
    directions = [text_direction(clip.to(device), source, target, templates) for clip in clips]
    return EditLoss(clips, directions, options or EditLossOptions()).to(device)
