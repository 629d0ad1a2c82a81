"""x_t0 of pictures: noised at once, or walked there by DDIM with the frozen base (arXiv 2304.04344, section 3)."""

import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from fewstep.choices import require_choice, require_range
from fewstep.diffusion.solvers import ddim, even_times, time_like
from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.schedule_times import base_times
from fewstep.rng import PerSampleRng, standard_normal

Kind = Literal["stochastic", "ddim"]


@dataclass(frozen=True)
class Encoding:
    """How far pictures are noised, and how.

    Args:
        t0: the time that edits start from, in (0, 1], where the paper has 350 of 1000 for makeup. Of DDPM's linear
            schedule on every base, see `base_times`. The smaller a picture is in pixels, the more a time destroys.
        kind: "stochastic", alpha data + sigma noise, or "ddim", which keeps details and costs num_steps passes.
        num_steps: of DDIM, at equal distances.
    """

    t0: float = 0.35
    kind: Kind = "stochastic"
    num_steps: int = 39

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, get_args(Kind))
        if not 0 < self.t0 <= 1:
            raise ValueError(f"t0={self.t0}: edits start inside the schedule, at a time above 0 and at most 1")
        require_range("num_steps", self.num_steps, 1)

    @property
    def passes(self) -> int:
        """Network passes for a picture."""
        return self.num_steps if self.kind == "ddim" else 0


class Encoder:
    """Data [B, C, h, w] of a base -> x_t0, without gradients.

    remember: so many of the latest pictures are not walked again by "ddim". They are known by a hash of their content,
    of the base and of the encoding, never by a name, and in memory of the CPU only. passes: those made so far, for all
    pictures. times: of the base, the last of which is that of x_t0.
    """

    def __init__(self, base: EditBase, encoding: Encoding, remember: int = 0) -> None:
        require_range("remember", remember)
        walk = even_times(encoding.num_steps, 0.0, encoding.t0)
        self.times = base_times(base, walk if encoding.kind == "ddim" else walk[-1:])
        base.parametrization.check(self.times)
        self.base, self.encoding, self.remember, self.passes = base, encoding, remember, 0
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, data: Tensor, rng: PerSampleRng | None = None) -> Tensor:
        """rng: the noise of each row of a stochastic encoding, fresh at every call; None: torch's global generator."""
        if self.encoding.kind == "stochastic":
            noise = standard_normal(rng, data, *data.shape[1:])
            return self.base.parametrization.add_noise(data, noise, time_like(data, self.times[-1]))
        keys = [self._key(row) for row in data] if self.remember else [""] * len(data)
        known = {key: self._known[key] for key in keys if key in self._known}
        unknown = [place for place, key in enumerate(keys) if key not in known]
        if unknown:
            walked = self._walk(data[unknown])
            if len(unknown) == len(data) and not self.remember:
                return walked
            known |= {keys[place]: state.to("cpu", copy=True) for place, state in zip(unknown, walked, strict=True)}
        for key in keys:
            self._known.pop(key, None)  # used last, forgotten last
            self._known[key] = known[key]
        for key in list(self._known)[: max(0, len(self._known) - self.remember)]:
            del self._known[key]
        return torch.stack([known[key] for key in keys]).to(data.device)

    def _walk(self, data: Tensor) -> Tensor:
        self.passes += self.encoding.passes * len(data)
        return ddim(self.base.denoiser, self.base.parametrization, data, self.times, {})

    def _key(self, data: Tensor) -> str:
        told = f"{self.base.sha256} {self.encoding} {data.dtype} {tuple(data.shape)}"
        content = data.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        return hashlib.sha256(told.encode() + content.tobytes()).hexdigest()
