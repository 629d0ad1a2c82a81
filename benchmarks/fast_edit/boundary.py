"""BoundaryDiffusion: one move across a linear boundary, without learning; Zhu et al. 2023 (arXiv 2302.08357).

Pictures with and without an attribute are walked by DDIM to a mixing time, where a linear SVM parts them, once by their
states x_t and once by the bottleneck of the network (h-space). An edit moves both along the normals at this one time,
and the frozen base decodes.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.fast_edit.h_space import answer_at, answer_with_h
from benchmarks.fast_edit.rivals import AT_ONCE, Asked, Learning, Memory, Point, in_batches
from benchmarks.icd.results import timed
from fewstep.diffusion.solvers import ddim, even_times, time_like
from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.encoding import Encoder, Encoding
from fewstep.fast_edit.schedule_times import base_times


class Boundary(NamedTuple):
    """normal: of length 1, shaped as a picture's features, towards what has the attribute. gap: between the mean
    distances of both sides."""

    normal: Tensor
    offset: float
    gap: float

    def distance(self, features: Tensor) -> Tensor:
        """Signed, [N], of features [N, ...]."""
        return features.flatten(1) @ self.normal.flatten() + self.offset

    def moved(self, features: Tensor, by: float) -> Tensor:
        """Features [N, ...], whose signed distances are `by` more."""
        return features + by * self.normal


def fit_boundary(without: Tensor, having: Tensor, seed: int = 0) -> Boundary:
    """A linear SVM between features [N, ...] and [M, ...]."""
    from sklearn.svm import LinearSVC

    features = torch.cat([without, having]).flatten(1).double().cpu().numpy()
    labels = [0] * len(without) + [1] * len(having)
    svm = LinearSVC(random_state=seed).fit(features, labels)
    weight = torch.as_tensor(svm.coef_[0])
    length = weight.norm()
    boundary = Boundary((weight / length).to(without).view(without.shape[1:]), float(svm.intercept_[0] / length), 0.0)
    return boundary._replace(gap=float(boundary.distance(having).mean() - boundary.distance(without).mean()))


@dataclass(frozen=True)
class BoundaryDiffusion:
    """A rival. t: the mixing time, None for the edit's t0. Labels are those of the data."""

    t: float | None = None
    encoding_steps: int = 39
    num_steps: int = 39

    def __call__(self, base: EditBase, sources: Tensor, asked: Asked, seed: int = 0) -> "BoundaryEdit":
        encoding = Encoding(self.t or asked.t0, "ddim", self.encoding_steps)
        pictures = torch.cat([sources, asked.having])
        encoder = Encoder(base, encoding)
        walk = lambda: torch.cat([encoder(base.encode(part)) for part in pictures.split(AT_ONCE)])  # noqa: E731
        states, walked = timed(walk, pictures.device)
        fit = partial(fitted, base, states, len(sources), encoder.times[-1], seed)
        boundaries, spent = timed(fit, pictures.device)
        told = Learning(walked / len(pictures), encoding.passes, len(pictures))
        edit = BoundaryEdit(base, *boundaries, encoding, self.num_steps, asked.memory, told)
        passes = (encoding.passes + 1) * len(pictures)
        told.points.append(Point(0, walked + spent, passes, len(pictures), *asked.look(edit.apply)))
        return edit


@torch.no_grad()
def fitted(base: EditBase, states: Tensor, without: int, t: float, seed: int) -> tuple[Boundary, Boundary]:
    """Boundaries of x_t and of h, of states [N, C, h, w] of which the first `without` lack the attribute."""
    h = torch.cat([answer_with_h(base, part, time_like(part, t))[1] for part in states.split(AT_ONCE)])
    of_states, of_h = (fit_boundary(each[:without], each[without:], seed) for each in (states, h))
    return of_states, of_h


@dataclass
class BoundaryEdit:
    """strength: 1 moves by the gap, from the mean of pictures without the attribute to that of those with it."""

    base: EditBase
    of_states: Boundary
    of_h: Boundary
    encoding: Encoding
    num_steps: int
    memory: Memory
    learning: Learning | None

    @property
    def passes(self) -> int:
        return self.encoding.passes + self.num_steps

    @torch.no_grad()
    def apply(self, pictures: Tensor, strength: float = 1.0) -> Tensor:
        encoder = self.memory(self.base, self.encoding)
        return in_batches(lambda rows, _: self._decoded(encoder(self.base.encode(rows)), strength), pictures, 0)

    def _decoded(self, x: Tensor, strength: float) -> Tensor:
        times = base_times(self.base, even_times(self.num_steps, self.encoding.t0, 0.0))
        parametrization = self.base.parametrization
        start, end = (time_like(x, time) for time in times[:2])
        x = self.of_states.moved(x, strength * self.of_states.gap)
        added = (strength * self.of_h.gap * self.of_h.normal).expand(len(x), *self.of_h.normal.shape)
        answer = answer_at(self.base, x, start, added)
        x = parametrization.jump(x, answer, start, end)
        return self.base.decode(ddim(self.base.denoiser, parametrization, x, times[1:], {})).clamp(-1, 1)
