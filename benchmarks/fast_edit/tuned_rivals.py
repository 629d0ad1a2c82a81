"""Edits by tuning the network along the CLIP direction: fast edit, DiffusionCLIP, and what lies between, by `learn`.

DiffusionCLIP (Kim et al. 2022, arXiv 2110.02711) is gradient mode "full" or "eff" on pictures encoded by DDIM. A text
slider (Gandikota et al. 2023, Concept Sliders, arXiv 2311.12092) is a LoRA by which the base moves along a direction of
texts at any t; theirs is a difference of text-conditional noise estimates, which a base without texts does not give. In
its place stands the direction of the CLIP, and what is left is gradient mode "random_t" with an adapter, compared with
the frozen estimate. It is one-sided: the loss knows no negative strength, and neither does the application.
"""

import copy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from benchmarks.fast_edit.rivals import Asked, Learning, Memory, Point, in_batches
from benchmarks.icd.results import timed
from fewstep.fast_edit.application import Application, apply_edit
from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.encoding import Encoder, Encoding
from fewstep.fast_edit.estimates import GradientMode
from fewstep.fast_edit.learn import LoopOptions, Update, learn
from fewstep.fast_edit.learning import LearningOptions, Reference
from fewstep.fast_edit.tuned import Tuned
from fewstep.fast_edit.tuning import TuningOptions

DDIM = Encoding(kind="ddim")
PLAIN = Application(residual=False, projection=0)  # as both papers apply an edit


@dataclass(frozen=True)
class Tuning:
    """A rival. The t0 of encodings is the edit's, whatever they say here. loop: its seed is the call's."""

    gradient: GradientMode = field(default_factory=GradientMode)
    encoding: Encoding = field(default_factory=Encoding)
    reference: Reference = "source"
    application: Application = PLAIN
    weights: TuningOptions = field(default_factory=lambda: TuningOptions(merged=True))
    loop: LoopOptions = field(default_factory=lambda: LoopOptions(passes=4, look_every=2))

    def __call__(self, base: EditBase, sources: Tensor, asked: Asked, seed: int = 0) -> "TunedEdit":
        learning = LearningOptions(replace(self.encoding, t0=asked.t0), self.gradient, self.reference)
        application = replace(self.application, encoding=replace(self.application.encoding, t0=asked.t0))
        loop, own = replace(self.loop, seed=seed), replace(base, network=copy.deepcopy(base.network))
        tuned = self.weights.of(own, ["edit"], seed)  # adapters stay in the network that they are made for
        edit = TunedEdit(base, tuned, application, asked.memory, seed)
        told = edit.learning = Learning(encoding_passes=learning.encoding.passes, num=len(sources))
        if learning.encoding.passes:
            encoder = Encoder(base, learning.encoding)
            walk = lambda: [encoder(base.encode(part)) for part in sources.split(loop.batch_size)]  # noqa: E731
            told.encoding_seconds = timed(walk, sources.device)[1] / len(sources)
        best, state = -1.0, dict[str, Tensor]()
        total = loop.passes * len(loop.order(len(sources), 0)) * self.gradient.updates

        def tell(update: Update) -> None:  # `learn` stops its clock for it
            nonlocal best, state
            if update.number % loop.look_every and update.number != total:
                return
            looked = asked.look(edit.apply)
            used = pictures_used(update.number, loop.batch_size, self.gradient.updates, len(sources))
            told.points.append(Point(update.number, update.seconds, update.passes, used, *looked))
            if sum(looked) > best:
                best, told.best = sum(looked), update.number
                state = {name: weight.detach().clone() for name, weight in tuned.state("edit").items()}

        learn(tuned, "edit", asked.loss, sources, None, learning, loop, tell=tell)
        tuned.load_state("edit", state)
        return edit


@dataclass
class TunedEdit:
    base: EditBase
    tuned: Tuned
    application: Application
    memory: Memory
    seed: int
    learning: Learning | None = None

    @property
    def passes(self) -> int:
        return self.application.passes("edit")

    def applied(self, application: Application) -> "TunedEdit":
        """The same edit, applied otherwise, from the same t0."""
        t0 = self.application.encoding.t0
        return replace(self, application=replace(application, encoding=replace(application.encoding, t0=t0)))

    @torch.no_grad()
    def apply(self, pictures: Tensor, strength: float = 1.0) -> Tensor:
        how = replace(self.application, strength=strength)
        encoder = self.memory(self.base, how.encoding)
        return in_batches(
            lambda rows, rng: apply_edit(self.tuned, rows, "edit", rng, how, encoder=encoder), pictures, self.seed
        )


def pictures_used(updates: int, batch_size: int, updates_each: int, num: int) -> int:
    """Different pictures that were seen, each once in every pass, where a batch has `updates_each` updates."""
    return min(num, -(-updates // updates_each) * batch_size)
