"""What an edit is trained on: its direction in CLIP's space, and what shall stay as it was.

Kim et al. 2022 (DiffusionCLIP), Eq. 10; Starodubcev et al. 2023 (arXiv 2304.04344), who keep the L1 term only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.choices import require_choice, require_range
from fewstep.fast_edit.direction.direction_loss import OFFSET, Form, direction_loss
from fewstep.fast_edit.direction.views import Views
from fewstep.fast_edit.in_range import in_range
from fewstep.losses import l1
from fewstep.rewards.clip_scores import CLIPSimilarity


@dataclass(frozen=True)
class EditLossOptions:
    """Weights of the terms, 0 for none, and how directions are compared.

    clip: of the direction. l1: of the mean absolute difference, 0 to 10; more keeps more, and at length takes the edit
    back. perceptual: of LPIPS. identity: of the cosine distance of identity features. form, offset: see direction_loss.
    views: see Views.
    """

    clip: float = 3.0
    l1: float = 1.0
    perceptual: float = 0.0
    identity: float = 0.0
    form: Form = "log"
    offset: float = OFFSET
    views: Views = field(default_factory=Views)

    def __post_init__(self) -> None:
        require_range("loss.clip", self.clip, above=True)
        for name in ("l1", "perceptual", "identity"):
            require_range(f"loss.{name}", getattr(self, name))
        require_choice("loss.form", self.form, ("log", "bare"))
        require_range("loss.offset", self.offset, 1e-2)


class EditLosses(NamedTuple):
    """total: [B], what is minimised. terms: each [B], unweighted: direction, l1, and those of a weight above 0."""

    total: Tensor
    terms: dict[str, Tensor]


class EditLoss:
    """The objective of one edit: `loss(edit, source, loss.reference(source))`.

    clips: loaded with differentiable=True; frozen here. Several are averaged: what fools one may not fool the other.
    directions: one unit vector [D] per CLIP, of `text_direction`. perceptual: ([B, 3, H, W], same) -> [B], such as
    LPIPS. identity: pictures [B, 3, H, W] in [-1, 1] -> features [B, F], such as a face recogniser. Not an nn.Module:
    a module that holds one neither trains the networks nor stores them. ValueError in one line for a weight without its
    network and the reverse.
    """

    def __init__(
        self,
        clips: Sequence[CLIPSimilarity],
        directions: Sequence[Tensor],
        options: EditLossOptions,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
        identity: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not clips or len(clips) != len(directions):
            raise ValueError(f"{len(clips)} CLIPs and {len(directions)} directions: give one direction for each CLIP")
        for clip in clips:
            if not clip.differentiable:
                raise ValueError("a CLIP rounds pictures to 8 bit, which loses the gradient; set differentiable=True")
        for name, network in (("perceptual", perceptual), ("identity", identity)):
            weight = getattr(options, name)
            if (weight > 0) != (network is not None):
                remedy = "give its network" if weight > 0 else "give it a weight, or leave the network out"
                raise ValueError(f"loss.{name}={weight} {'without' if weight > 0 else 'with'} a network: {remedy}")
        self.clips, self.directions, self.options = list(clips), [d.detach() for d in directions], options
        self.perceptual, self.identity = perceptual, identity
        for network in self._networks():
            network.eval().requires_grad_(False)

    def to(self, device: torch.device | str) -> "EditLoss":
        for network in self._networks():
            network.to(device)
        self.directions = [direction.to(device) for direction in self.directions]
        return self

    @torch.no_grad()
    def reference(self, pictures: Tensor) -> Tensor:
        """Features [B, D] of unedited pictures [B, 3, H, W], of all CLIPs side by side: compute once and keep.

        pictures: those that the edit is compared with, the sources or frozen estimates of them; clamped to [-1, 1].
        """
        return torch.cat([clip.embed_images(pictures.clamp(-1, 1)) for clip in self.clips], 1)

    def __call__(self, edit: Tensor, source: Tensor, features: Tensor, seed: int | None = None) -> EditLosses:
        """Losses of edits [B, 3, H, W], which may leave [-1, 1]; gradients reach them alone.

        source: what they are compared with, the pictures of `features`, which is their `reference`. seed: of the views;
        None draws one from torch's global generator.
        """
        self._check(edit, source, features)
        seed = int(torch.randint(2**62, ())) if seed is None else seed
        options, edit = self.options, edit.float()
        source = source.detach().float()
        with torch.autocast(edit.device.type, enabled=False):
            seen, kept = in_range(edit), source.clamp(-1, 1)
            terms = {"direction": self._direction(seen, kept, features, seed), "l1": l1(edit, source)}
            if self.perceptual is not None:
                terms["perceptual"] = self.perceptual(seen, kept)
            if self.identity is not None:
                with torch.no_grad():
                    known = self.identity(kept)
                terms["identity"] = 1 - F.cosine_similarity(self.identity(seen), known)
            weights = {"direction": options.clip, "l1": options.l1}
            weights |= {"perceptual": options.perceptual, "identity": options.identity}
            total = torch.stack([weights[name] * term for name, term in terms.items()]).sum(0)
        return EditLosses(total, terms)

    def _direction(self, edit: Tensor, source: Tensor, features: Tensor, seed: int) -> Tensor:
        """[B], the mean over CLIPs and views."""
        options, size = self.options, len(edit)
        shown, changed = options.views(edit, seed).flatten(0, 1), options.views.changed(source, seed).flatten(0, 1)
        losses = []
        widths = [len(direction) for direction in self.directions]
        for clip, direction, plain in zip(self.clips, self.directions, features.split(widths, 1), strict=True):
            with torch.no_grad():
                known = torch.cat([plain, clip.embed_images(changed)]) if len(changed) else plain
            loss = direction_loss(clip.embed_images(shown), known, direction, options.form, options.offset)
            losses.append(loss.view(-1, size).mean(0))
        return torch.stack(losses).mean(0)

    def _networks(self) -> list[nn.Module]:
        parts = [*self.clips, self.perceptual, self.identity]
        return [part for part in parts if isinstance(part, nn.Module)]

    def _check(self, edit: Tensor, source: Tensor, features: Tensor) -> None:
        if edit.ndim != 4 or edit.shape[1] != 3 or edit.shape != source.shape:
            raise ValueError(f"edit {list(edit.shape)} and source {list(source.shape)}: both must be [B, 3, H, W]")
        wanted = (len(edit), sum(len(direction) for direction in self.directions))
        if tuple(features.shape) != wanted:
            raise ValueError(f"features {list(features.shape)}: {list(wanted)} needed, the reference of these sources")
