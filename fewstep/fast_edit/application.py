"""An edit on pictures in a few network passes: encode, decode with the edit and without it, add what differs."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from fewstep.choices import require_choice, require_range
from fewstep.diffusion.solvers import ddim, even_times, time_like
from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.encoding import Encoder, Encoding
from fewstep.fast_edit.schedule_times import base_times
from fewstep.fast_edit.tuned import Tuned, predict_mixed, with_base
from fewstep.rng import PerSampleRng, standard_normal

StrengthOf = Literal["weights", "outputs", "residual"]
Edits = str | Mapping[str, float]  # an edit's name, or the share of each in what the network answers


@dataclass(frozen=True)
class Application:
    """How an edit is applied. Times are those of DDPM's linear schedule on every base, see `base_times`.

    Args:
        encoding: how pictures become x_t0.
        num_steps: of decoding, at equal distances from t0 to 0; 1 is one call at t0.
        split: the edit is asked at times from this one on, the frozen base below it, where details are made.
        residual: answer picture + decoded with the edit - decoded without it, which costs a second pass a step, and
            cancels what encoding loses.
        strength: how much of an edit, 0 for none. strength_of: what it is a factor of: the change of "weights", that of
            what the network answers ("outputs"; Kim et al. 2022, section 3.4), or the "residual".
        projection: the time to which the answer is noised again, for the frozen base to decode it in projection_steps
            steps: what is not like its data is lost, such as texture that only pleases a loss. 0 for no projection.
    """

    encoding: Encoding = field(default_factory=Encoding)
    num_steps: int = 6
    split: float = 0.0
    residual: bool = True
    strength: float = 1.0
    strength_of: StrengthOf = "weights"
    projection: float = 0.06
    projection_steps: int = 4

    def __post_init__(self) -> None:
        require_range("num_steps", self.num_steps, 1)
        require_range("split", self.split, 0, self.encoding.t0)  # above t0 the edit would never be asked
        require_range("strength", self.strength)
        require_choice("strength_of", self.strength_of, get_args(StrengthOf))
        if self.strength_of == "residual" and not self.residual:
            raise ValueError('strength_of="residual" needs residual=True; choose "weights" or "outputs"')
        require_range("projection", self.projection, 0, 1)
        require_range("projection_steps", self.projection_steps, 1)

    @property
    def times(self) -> tuple[float, ...]:
        return even_times(self.num_steps, self.encoding.t0, 0.0)

    def shares(self, edits: Edits, t: float) -> dict[str | None, float]:
        """{edit, or None for the base: its share of the answer at time t}; the base's alone at strength 0."""
        weights = {edits: 1.0} if isinstance(edits, str) else dict(edits)
        if not weights:
            raise ValueError("there is no edit to apply; name one")
        if not self.strength or t < self.split - 1e-9:
            return {None: 1.0}
        factor = self.strength if self.strength_of == "outputs" else 1.0
        return with_base({name: share * factor for name, share in weights.items()})

    def passes(self, edits: Edits) -> int:
        """Network passes for a picture, all told. No edit at all, strength 0 with residual, costs none."""
        if self.residual and not self.strength:
            return 0
        total = self.encoding.passes + (self.projection_steps if self.projection else 0)
        for start in self.times[:-1]:
            shares = self.shares(edits, start)
            shared = start == self.encoding.t0 and None in shares  # both decodings start from the same state
            total += len(shares) + (self.residual and not shared)
        return total


@torch.no_grad()
def apply_edit(
    tuned: Tuned,
    pictures: Tensor,
    edits: Edits,
    rng: PerSampleRng | None,
    how: Application,
    mask: Tensor | None = None,
    encoder: Encoder | None = None,
) -> Tensor:
    """Edited pictures [B, 3, H, W] in [-1, 1], clamped at the very end; the pictures themselves are not changed.

    pictures: [B, 3, H, W] in [-1, 1], of any size that the base takes. rng: noise of each row. mask: [B, 1, H, W] in
    [0, 1], 1 where a picture may change. encoder: one that remembers, of the same encoding. At strength 0 the answer is
    what the base decodes or, with `residual`, the picture, without projection. ValueError in one line.
    """
    base = tuned.base
    base.check_pictures(pictures)
    if mask is not None and mask.shape != (len(pictures), 1, *pictures.shape[2:]):
        raise ValueError(
            f"the mask has shape {list(mask.shape)}, the pictures {list(pictures.shape)}; give [B, 1, H, W]"
        )
    if encoder is not None and encoder.encoding != how.encoding:
        raise ValueError(f"the encoder has {encoder.encoding}, the application {how.encoding}; give one of the same")
    how.shares(edits, how.encoding.t0)
    for name in [edits] if isinstance(edits, str) else edits:
        if name not in tuned.names:
            raise ValueError(f"no edit is named {name!r}; choose one of {', '.join(tuned.names)}")
    if how.residual and not how.strength:
        return pictures.clamp(-1, 1)
    data = base.encode(pictures)
    x = (encoder or Encoder(base, how.encoding))(data, rng)
    with tuned.scaled(how.strength) if how.strength_of == "weights" and how.strength != 1 else nullcontext():
        edited, plain = _decode(tuned, x, edits, how)
    edited = base.decode(edited)
    if plain is not None:
        factor = how.strength if how.strength_of == "residual" else 1.0
        edited = pictures + factor * (edited - base.decode(plain))
    if how.projection:
        edited = project(base, edited, rng, how.projection, how.projection_steps)
    if mask is not None:
        edited = pictures + mask * (edited - pictures)
    return edited.clamp(-1, 1)


def _decode(tuned: Tuned, x: Tensor, edits: Edits, how: Application) -> tuple[Tensor, Tensor | None]:
    """(x_t0 decoded with the edits, and without any where that is asked for), each [B, C, h, w]."""
    jump = tuned.base.parametrization.jump
    plain = x if how.residual else None
    for time, (start, end) in zip(how.times[:-1], pairwise(base_times(tuned.base, how.times)), strict=True):
        t, s = time_like(x, start), time_like(x, end)
        shares = how.shares(edits, time)
        output, of_plain = predict_mixed(tuned, x, t, shares, plain)
        if plain is not None and of_plain is not None:
            plain = jump(plain, of_plain, t, s)
        x = jump(x, output, t, s)
    return x, plain


@torch.no_grad()
def project(base: EditBase, pictures: Tensor, rng: PerSampleRng | None, t: float, num_steps: int) -> Tensor:
    """Pictures [B, 3, H, W] noised to time t and decoded by the frozen base in num_steps steps, not clamped.

    t: in (0, 1], of DDPM's linear schedule. As SDEdit (Meng et al. 2022) does with a guide; here it takes from an edit
    what the base's data do not have.
    """
    require_range("t", t, 0, 1, above=True)
    data, times = base.encode(pictures), base_times(base, even_times(num_steps, t, 0.0))
    x = base.parametrization.add_noise(data, standard_normal(rng, data, *data.shape[1:]), time_like(data, times[0]))
    return base.decode(ddim(base.denoiser, base.parametrization, x, times, {}))
