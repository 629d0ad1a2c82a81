"""Rewards: (images [B, 3, H, W] in [-1, 1], prompts: list of B str) -> one value per sample [B], higher is better.

The signature is all there is to it; any callable may take part. `load_image_reward`, `load_clip`, `load_hpsv2` and
`load_pickscore` are gathered here beside the two rewards that are built from others.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fewstep.files.hub import check_keys, read_weights, weights_file
from fewstep.pixels import check_images_and_prompts
from fewstep.rewards.clip_scores import CLIPSimilarity, load_clip, load_hpsv2, load_pickscore
from fewstep.rewards.image_reward import ImageReward, load_image_reward, score_head

__all__ = [
    "AestheticScore",
    "CLIPSimilarity",
    "ImageReward",
    "Reward",
    "WeightedSum",
    "load_aesthetic",
    "load_clip",
    "load_hpsv2",
    "load_image_reward",
    "load_pickscore",
]

Reward = Callable[[Tensor, list[str]], Tensor]


class AestheticScore(nn.Module):
    """LAION's aesthetic predictor: a linear head on the unit-length image embedding of a CLIP; about 1 to 10.

    Schuhmann et al. 2022, LAION-5B, Sec. 5. The prompts are counted but not read.
    """

    def __init__(self, clip: CLIPSimilarity, head: nn.Module):
        super().__init__()
        self.clip, self.head = clip, head

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Scores [B] of images [B, 3, H, W] in [-1, 1]."""
        check_images_and_prompts(images, prompts)
        embeddings = self.clip.embed_images(images)
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.head(embeddings).squeeze(1)


def load_aesthetic(
    source: str | Path,
    model: str = "ViT-L-14-quickgelu",
    pretrained: str | None = "openai",
    differentiable: bool = False,
) -> AestheticScore:
    """The published heads: sac+logos+ava1-l14-linearMSE.pth (five layers) or sa_0_4_vit_l_14_linear.pth (one layer).

    `source`: the head's file, or a folder or hub id that holds the first of them. `model` and `pretrained` as in
    `load_clip`: the CLIP that the head was trained on.
    """
    path = weights_file(source, "sac+logos+ava1-l14-linearMSE.pth")
    state = {name.removeprefix("layers."): value.float() for name, value in read_weights(path).items()}
    clip = load_clip(model, pretrained, differentiable=differentiable)
    width = clip.embed_prompts([""]).shape[1]
    head = nn.Linear(width, 1) if "weight" in state else score_head(width)
    check_keys(state, head.state_dict(), path)
    head.load_state_dict(state)
    return AestheticScore(clip, head.eval().requires_grad_(False))


class WeightedSum(nn.Module):
    """sum_k weight_k * reward_k(images, prompts). The rewards' own scales differ widely: weigh by 1 / their spread."""

    def __init__(self, rewards: Sequence[Reward], weights: Sequence[float]):
        super().__init__()
        if not rewards or len(rewards) != len(weights):
            raise ValueError(f"{len(rewards)} rewards with {len(weights)} weights; give one weight for each reward")
        if not all(math.isfinite(weight) for weight in weights):
            raise ValueError(f"weights of rewards must be finite, got {list(weights)}")
        self.rewards, self.weights = list(rewards), list(weights)
        self.networks = nn.ModuleList(reward for reward in rewards if isinstance(reward, nn.Module))  # follow .to()

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Weighted scores [B] of images [B, 3, H, W] in [-1, 1] for their prompts."""
        check_images_and_prompts(images, prompts)
        total = torch.zeros(len(images), device=images.device)
        for reward, weight in zip(self.rewards, self.weights, strict=True):
            scores = reward(images, prompts)
            if scores.shape != total.shape:
                raise ValueError(
                    f"a reward returned shape {list(scores.shape)} for {len(images)} images, needed is [B]"
                )
            total = total + weight * scores.to(total)
        return total
