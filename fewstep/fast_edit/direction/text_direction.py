"""The direction between two texts in the embedding space of a CLIP, along which an edit shall move pictures."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fewstep.fast_edit.direction.templates import prompt_templates
from fewstep.rewards.clip_scores import CLIPSimilarity

LEAST_DIFFERENCE = 0.01  # of mean unit vectors; rounding leaves 1e-6 between equal texts, an edit's texts differ by 0.3


@torch.no_grad()
def text_direction(
    clip: CLIPSimilarity,
    source: str | Sequence[str],
    target: str | Sequence[str],
    templates: str | Sequence[str] = "imagenet",
) -> Tensor:
    """Unit vector [D] along mean_k(E(template_k(target)) - E(template_k(source))), float32 on the CLIP's device.

    Kim et al. 2022 (DiffusionCLIP), after Gal et al. 2022 (StyleGAN-NADA). source, target: a text each, or as many of
    one as of the other: pairs that describe the same edit, over which the mean is taken, too. templates: see
    `prompt_templates`. It runs the text tower for all of them: compute it once. ValueError in one line for texts that
    are empty, equal, or alike to this CLIP.
    """
    pairs = text_pairs(source, target)
    sentences = prompt_templates(templates)
    difference = torch.zeros(())
    for old, new in pairs:
        for text, sign in ((new, 1), (old, -1)):
            embedded = clip.embed_prompts([sentence.replace("{}", text) for sentence in sentences]).float()
            difference = difference.to(embedded.device) + sign * embedded.mean(0) / len(pairs)
    length = difference.norm().item()
    if not length > LEAST_DIFFERENCE:
        raise ValueError(
            f"this CLIP cannot tell {_shown(pairs, 0)} from {_shown(pairs, 1)} (distance {length:.2g}, needs "
            f"{LEAST_DIFFERENCE}); use words that it knows, within the length that it reads"
        )
    return F.normalize(difference, dim=0)


def text_pairs(source: str | Sequence[str], target: str | Sequence[str]) -> list[tuple[str, str]]:
    """Source and target texts, pair by pair. ValueError in one line for empty and equal ones and for odd ones out."""
    sources, targets = ([texts] if isinstance(texts, str) else list(texts) for texts in (source, target))
    if len(sources) != len(targets) or not sources:
        raise ValueError(
            f"{len(sources)} source and {len(targets)} target texts: they are taken in pairs, give as many of each"
        )
    for name, texts in (("source", sources), ("target", targets)):
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{name} text {text!r}: must not be empty; name what is in the picture, such as face")
    pairs = [(old.strip(), new.strip()) for old, new in zip(sources, targets, strict=True)]
    for old, new in pairs:
        if old == new:
            raise ValueError(f"source and target are both {old!r}: there is no direction between equal texts")
    return pairs


def _shown(pairs: list[tuple[str, str]], side: int) -> str:
    return " / ".join(repr(pair[side]) for pair in pairs)
