"""Whether pictures show what an edit shall bring: how surely, by a reader of attributes or by two texts."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fewstep.choices import require_range
from fewstep.fast_edit.direction.templates import prompt_templates
from fewstep.fast_edit.direction.text_direction import text_pairs
from fewstep.fast_edit.direction.views import Views
from fewstep.rewards.attribute_reader import AttributeReader
from fewstep.rewards.attributes import judge
from fewstep.rewards.clip_scores import CLIPSimilarity

Probe = Callable[[Tensor], Tensor]  # pictures [B, 3, H, W] in [-1, 1] -> probabilities [B]


class AttributeProbe:
    """The probability that a picture has all of these attributes, such as {"glasses": "glasses"}, for the reader."""

    def __init__(self, reader: AttributeReader, wanted: Mapping[str, str]) -> None:
        if not wanted:
            raise ValueError("an attribute probe needs what it looks for, such as {glasses: glasses}")
        self.reader, self.wanted = reader.eval().requires_grad_(False), dict(wanted)

    def to(self, device: torch.device | str) -> "AttributeProbe":
        self.reader.to(device)
        return self

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        return judge(self.reader, pictures, [self.wanted] * len(pictures)).log_p.sum((1, 2)).exp()


class TextProbe:
    """The probability that a picture goes with the target rather than with the source, mean over pairs of texts.

    A softmax over both of `scale` times the cosines: 100 is that of CLIP (Radford et al. 2021, section 2.5). It can be
    pleased as any CLIP can: take another than that of the loss. templates: see `prompt_templates`.
    """

    def __init__(
        self,
        clip: CLIPSimilarity,
        source: str | Sequence[str],
        target: str | Sequence[str],
        templates: str | Sequence[str] = "imagenet",
        scale: float = 100.0,
    ) -> None:
        require_range("scale", scale, above=True)
        self.clip, self.scale = clip.eval().requires_grad_(False), scale
        sentences = prompt_templates(templates)
        pairs = text_pairs(source, target)
        with torch.no_grad():
            texts = [[sentence.replace("{}", text) for sentence in sentences] for pair in pairs for text in pair]
            means = torch.stack([F.normalize(clip.embed_prompts(several).mean(0), dim=0) for several in texts])
        self.texts = means.unflatten(0, (len(pairs), 2))  # source and target of each

    def to(self, device: torch.device | str) -> "TextProbe":
        self.clip.to(device)
        return self

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        embedded = self.clip.embed_images(pictures)
        cosines = torch.einsum("bd,psd->bps", embedded, self.texts.to(embedded))
        return (self.scale * cosines).softmax(2)[..., 1].mean(1)


class ViewedProbe:
    """The mean over changed views of what a probe says: of views that a loss with another seed has not seen.

    For where there is none but the network of the loss: what pleases it in a few views need not please it in others.
    """

    def __init__(self, probe: Probe, views: Views, seed: int) -> None:
        require_range("views.count", views.count, 2)  # the first is the picture as it is
        self.probe, self.views, self.seed = probe, views, seed

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        shown = self.views.changed(pictures, self.seed)
        return self.probe(shown.flatten(0, 1)).unflatten(0, shown.shape[:2]).mean(0)
