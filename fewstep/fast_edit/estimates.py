"""Pictures that an edit's loss is applied to, with a gradient to its weights: the modes of two papers and between them.

"one_step": the estimate of the data at t0 (Starodubcev et al. 2023, arXiv 2304.04344). "random_t": the same at a time
drawn from [t_lo, t0], so that training sees what application asks. "full": the picture decoded in num_steps steps, and
"eff": the estimate at every one of these steps, an update at each (Kim et al. 2022, DiffusionCLIP, arXiv 2110.02711).
"last_k": "full" with a gradient through its last_k last steps alone (Clark et al. 2023, DRaFT-K).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fewstep.choices import require_choice, require_range
from fewstep.diffusion.solvers import even_times, time_like
from fewstep.fast_edit.encoding import Encoder, Encoding
from fewstep.fast_edit.schedule_times import base_times
from fewstep.fast_edit.tuned import Tuned
from fewstep.rng import PerSampleRng, standard_normal, standard_uniform

Mode = Literal["one_step", "random_t", "last_k", "eff", "full"]


@dataclass(frozen=True)
class GradientMode:
    """Which estimates the loss sees; see the head of this file.

    Args:
        mode: one of them.
        num_steps: of "last_k", "eff" and "full", at equal distances from t0 to 0.
        last_k: of "last_k", from 1 to num_steps.
        t_lo: of "random_t", above 0 and at most t0; both times of DDPM's linear schedule, see `base_times`.
        checkpointing: keep no activations and compute them again in the backward pass; one pass more for each.
    """

    mode: Mode = "one_step"
    num_steps: int = 6
    last_k: int = 1
    t_lo: float = 0.05
    checkpointing: bool = False

    def __post_init__(self) -> None:
        require_choice("mode", self.mode, get_args(Mode))
        require_range("num_steps", self.num_steps, 1)
        if self.mode == "last_k":
            require_range("last_k", self.last_k, 1, self.num_steps)
        require_range("t_lo", self.t_lo, 0, 1, above=True)

    def check(self, encoding: Encoding) -> None:
        """ValueError in one line where it does not fit how pictures are encoded."""
        if self.mode == "random_t":
            if encoding.kind != "stochastic":
                raise ValueError(f'mode="random_t" noises pictures itself: encode "stochastic", not {encoding.kind!r}')
            require_range("t_lo", self.t_lo, 0, encoding.t0, above=True)

    @property
    def passes(self) -> int:
        """Forward passes for a picture, besides its encoding and what checkpointing repeats."""
        return 1 if self.mode in ("one_step", "random_t") else self.num_steps

    @property
    def updates(self) -> int:
        """Estimates for a picture, at each of which the caller takes a step."""
        return self.num_steps if self.mode == "eff" else 1


def pass_rng(seed: int, keys: Sequence[str], number: int, device: torch.device | str = "cpu") -> PerSampleRng:
    """Noise of pictures with these keys in one pass over them, other noise in every other pass."""
    return PerSampleRng(seed, [f"{key}:{number}" for key in keys], device)


def estimates(
    tuned: Tuned, edit: str | None, pictures: Tensor, encoder: Encoder, rng: PerSampleRng | None, how: GradientMode
) -> Iterator[tuple[Tensor, Tensor]]:
    """(pictures [B, 3, H, W] as the edit makes them, not clamped, times t [B] of the base that it was asked at).

    pictures: [B, 3, H, W] in [-1, 1]. rng: noise of each row, see `pass_rng`. Gradients reach the edit's weights. Those
    are to be stepped between two of what this yields: the later are of the changed weights. edit: None asks the base.
    """
    how.check(encoder.encoding)
    base, parametrization, t0 = tuned.base, tuned.base.parametrization, encoder.encoding.t0
    predict = _predictor(tuned, edit, how.checkpointing)
    data = base.encode(pictures)
    if how.mode == "random_t":
        drawn = [how.t_lo + (t0 - how.t_lo) * share for share in standard_uniform(rng, data).tolist()]
        t = time_like(data, 0.0).new_tensor(base_times(base, drawn))
        x = parametrization.add_noise(data, standard_normal(rng, data, *data.shape[1:]), t)
    else:
        x = encoder(data, rng)
        t = time_like(x, encoder.times[-1])
    if how.passes == 1:
        yield base.decode(parametrization.data(x, predict(x, t), t)), t
        return
    times = base_times(base, even_times(how.num_steps, t0, 0.0))
    with_gradient = how.last_k if how.mode == "last_k" else how.num_steps
    for step, (start, end) in enumerate(pairwise(times)):
        t, s = time_like(x, start), time_like(x, end)
        with torch.set_grad_enabled(step >= how.num_steps - with_gradient and torch.is_grad_enabled()):
            output = predict(x, t)
            after = parametrization.jump(x, output, t, s)
        if how.mode == "eff":
            yield base.decode(parametrization.data(x, output, t)), t
            after = after.detach()
        x = after
    if how.mode != "eff":
        yield base.decode(x), t


def _predictor(tuned: Tuned, edit: str | None, checkpointing: bool) -> Callable[[Tensor, Tensor], Tensor]:
    def predict(x: Tensor, t: Tensor) -> Tensor:
        return tuned.predict(x, t, edit)

    def recomputed(x: Tensor, t: Tensor) -> Tensor:
        answer: Tensor = checkpoint(predict, x, t, use_reentrant=False)
        return answer

    return recomputed if checkpointing else predict
