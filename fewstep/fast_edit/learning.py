"""The losses of an edit that one batch of pictures gives, by Starodubcev et al. 2023 (arXiv 2304.04344), section 3."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from fewstep.choices import require_choice
from fewstep.fast_edit.direction.edit_loss import EditLoss, EditLosses
from fewstep.fast_edit.encoding import Encoder, Encoding
from fewstep.fast_edit.estimates import GradientMode, estimates, pass_rng
from fewstep.fast_edit.tuned import Tuned
from fewstep.rng import PerSampleRng, mix_seed

Reference = Literal["source", "frozen_estimate"]
MOST_KEPT = 4096  # sources whose features, and encodings by DDIM, are kept, on the CPU


@dataclass(frozen=True)
class LearningOptions:
    """What is optimised.

    Args:
        encoding: how pictures become x_t0.
        gradient: which estimates the loss sees, see GradientMode.
        reference: what an estimate is compared with. "source", the picture: the loss also rewards what the estimate
            lacks in sharpness. "frozen_estimate", what the frozen base makes of the same x_t0: the change of meaning
            alone, at the price of as many network passes again, without gradient.
    """

    encoding: Encoding = field(default_factory=Encoding)
    gradient: GradientMode = field(default_factory=GradientMode)
    reference: Reference = "source"

    def __post_init__(self) -> None:
        require_choice("reference", self.reference, get_args(Reference))
        self.gradient.check(self.encoding)


class EditLearning:
    """Losses of one edit.

    tuned, edit: the weights that learn, and the edit's name. loss: with the directions of this edit. seed: of noise and
    views, which are fresh in every pass. passes: forward passes of the base's network made so far, for all pictures.
    """

    def __init__(
        self, tuned: Tuned, edit: str, loss: EditLoss, options: LearningOptions | None = None, seed: int = 0
    ) -> None:
        if edit not in tuned.names:
            raise ValueError(f"no edit is named {edit!r}; choose one of {', '.join(tuned.names)}")
        self.tuned, self.edit, self.loss, self.seed = tuned, edit, loss, seed
        self.options = options or LearningOptions()
        self.encoder = Encoder(tuned.base, self.options.encoding, MOST_KEPT)
        self._called = 0
        self._features: dict[str, Tensor] = {}

    @property
    def passes(self) -> int:
        return self._called + self.encoder.passes

    def losses(self, pictures: Tensor, keys: Sequence[str], number: int) -> Iterator[EditLosses]:
        """One for each update that the gradient mode asks for; take the step before the next one is asked for.

        pictures: [B, 3, H, W] in [-1, 1] with keys, which tell apart their noise. number: of the pass over them.
        """
        options, how = self.options, self.options.gradient
        references = self._frozen(pictures, keys, number) if options.reference == "frozen_estimate" else None
        made = estimates(self.tuned, self.edit, pictures, self.encoder, self._rng(pictures, keys, number), how)
        for step, (estimate, _) in enumerate(made):
            self._called += len(pictures) * (how.passes // how.updates)
            if references is None:
                reference, features = pictures, self._features_of(pictures)
            else:
                reference = references[step]
                features = self.loss.reference(reference)
            views = mix_seed(self.seed, f"views {number} {step} {' '.join(keys)}")
            yield self.loss(estimate, reference, features, views)

    @torch.no_grad()
    def _frozen(self, pictures: Tensor, keys: Sequence[str], number: int) -> list[Tensor]:
        """The estimates of the frozen base from the same noise; of "eff", along its own way to the data."""
        how, rng = self.options.gradient, self._rng(pictures, keys, number)
        self._called += len(pictures) * how.passes
        return [made for made, _ in estimates(self.tuned, None, pictures, self.encoder, rng, how)]

    def _rng(self, pictures: Tensor, keys: Sequence[str], number: int) -> PerSampleRng:
        return pass_rng(self.seed, keys, number, pictures.device)

    def _features_of(self, pictures: Tensor) -> Tensor:
        """`loss.reference` of sources [B, 3, H, W], kept by their content: no name can bring back another picture's."""
        keys = [content_sha256(picture) for picture in pictures]
        unknown = [row for row, key in enumerate(keys) if key not in self._features]
        if unknown:
            found = self.loss.reference(pictures[unknown])
            self._features |= {
                keys[row]: features.to("cpu", copy=True) for row, features in zip(unknown, found, strict=True)
            }
        features = torch.stack([self._features[key] for key in keys]).to(pictures.device)
        for key in list(self._features)[: max(0, len(self._features) - MOST_KEPT)]:
            del self._features[key]
        return features


def content_sha256(picture: Tensor) -> str:
    """Of a tensor's numbers, shape and type."""
    content = picture.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(f"{picture.dtype} {tuple(picture.shape)}".encode() + content.tobytes()).hexdigest()
