"""An edit learnt from a few pictures in a plain loop; Starodubcev et al. 2023 (arXiv 2304.04344).

In the paper 50 pictures, then the edit is applied to any; or the one picture that is to be edited ("single image").
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fewstep.choices import require_range
from fewstep.fast_edit.application import Application, apply_edit
from fewstep.fast_edit.direction.edit_loss import EditLoss, EditLosses
from fewstep.fast_edit.growth import grown
from fewstep.fast_edit.learning import EditLearning, LearningOptions
from fewstep.fast_edit.probes import Probe
from fewstep.fast_edit.tuned import Tuned, TunedCopies
from fewstep.fast_edit.tuning import restart
from fewstep.rng import PerSampleRng, mix_seed

LORA_LR, FULL_LR = 2e-3, 1e-4
AT_ONCE = 32  # pictures that a probe sees


@dataclass(frozen=True)
class LoopOptions:
    """How long, how fast.

    Args:
        passes: over the pictures. batch_size: pictures an update.
        lr: of Adam without weight decay; None for 2e-3 of an adapter and 1e-4 of whole networks.
        lr_growth: factor of it after every pass, at most lr_cap in all. The paper's code has 1.3 without a cap, which
            is 23 after 12 passes and known to break an edit.
        shuffle: other batches in every pass, by the seed.
        seed: of order, noise and views, and of how adapters begin.
        look_every: updates between two looks of the probe.
        enough: the share of pictures with what the edit shall bring at which learning stops; None for never. Every
            further update moves the edit away from the data, towards what only pleases its loss.
        threshold: the probability from which a picture has it.
    """

    passes: int = 5
    batch_size: int = 5
    lr: float | None = None
    lr_growth: float = 1.0
    lr_cap: float = 3.0
    shuffle: bool = True
    seed: int = 0
    look_every: int = 5
    enough: float | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        for name in ("passes", "batch_size", "look_every"):
            require_range(name, getattr(self, name), 1)
        if self.lr is not None:
            require_range("lr", self.lr, above=True)
        require_range("lr_growth", self.lr_growth, above=True)
        require_range("lr_cap", self.lr_cap, 1)
        require_range("threshold", self.threshold, 0, 1)
        if self.enough is not None:
            require_range("enough", self.enough, 0, 1, above=True)

    def factor(self, number: int) -> float:
        """Of the learning rate in pass `number`, the first of which is 0."""
        return grown(self.lr_growth, number, self.lr_cap)

    def order(self, rows: int, number: int) -> list[list[int]]:
        """The batches of pass `number`, of which the last may be smaller."""
        generator = torch.Generator().manual_seed(mix_seed(self.seed, f"order of pass {number}"))
        places = torch.randperm(rows, generator=generator) if self.shuffle else torch.arange(rows)
        return [batch.tolist() for batch in places.split(self.batch_size)]


@dataclass(frozen=True)
class Probing:
    """A look at pictures as the edit makes them, beside learning.

    probe: see fewstep.fast_edit.probes. pictures: [M, 3, H, W] in [-1, 1], a few that are not learnt from; None for
    those of learning, of which there may be one. application: how they are edited; None for the
    defaults with the encoding of learning.
    """

    probe: Probe
    pictures: Tensor | None = None
    application: Application | None = None


class Update(NamedTuple):
    """number: from 1. loss, terms: means over the batch, before the step. share, score: of the pictures that the probe
    finds, and its mean probability, after the step; None where it did not look. seconds: of the process, spent on
    learning so far, without looks; passes: of the network, forward, for all pictures so far, without looks.
    """

    number: int
    lr: float
    loss: float
    terms: Mapping[str, float]
    seconds: float
    passes: int
    share: float | None = None
    score: float | None = None

    def row(self) -> dict[str, float | int | None]:
        """Plain values, for a table."""
        values = self._asdict()
        terms = values.pop("terms")
        return values | terms


class Learnt(NamedTuple):
    """history: all updates. best: the number of the one after which the weights were kept. stopped: by the probe."""

    history: list[Update]
    best: int
    stopped: bool = False


def learn(
    tuned: Tuned,
    edit: str,
    loss: EditLoss,
    pictures: Tensor,
    keys: Sequence[str] | None = None,
    learning: LearningOptions | None = None,
    loop: LoopOptions | None = None,
    probing: Probing | None = None,
    tell: Callable[[Update], None] | None = None,
) -> Learnt:
    """Learn one edit of `tuned`, from new, whatever it or another edit was before; its weights are the result.

    loss: with the directions of this edit. pictures: [N, 3, H, W] in [-1, 1] without what the edit brings. keys: N
    different names of them, which their noise belongs to; None for their numbers. tell: called after every update. With
    `probing` the weights of the best look are kept, by the share of pictures and, where equal, the mean probability;
    without, the last ones. ValueError in one line, also for a loss that is no longer finite.
    """
    learning, loop = learning or LearningOptions(), loop or LoopOptions()
    keys = [str(row) for row in range(len(pictures))] if keys is None else [str(key) for key in keys]
    _check(tuned, pictures, keys)
    source = EditLearning(tuned, edit, loss, learning, loop.seed)
    look = None if probing is None else partial(_look, tuned, edit, probing, pictures, loop, learning)
    restart(tuned, edit, loop.seed)
    lr = loop.lr or (FULL_LR if isinstance(tuned, TunedCopies) else LORA_LR)
    optimizer = torch.optim.Adam(tuned.parameters(edit), lr)
    total = loop.passes * len(loop.order(len(pictures), 0)) * learning.gradient.updates
    history: list[Update] = []
    best, state, seconds = Looked(-1, -1), dict[str, Tensor](), 0.0
    kept, start = total, _now(pictures.device)
    for number, (rate, losses) in enumerate(_losses(source, pictures, keys, loop), 1):
        optimizer.param_groups[0]["lr"] = lr * rate
        mean = losses.total.mean()
        if not mean.isfinite():
            raise ValueError(f"the loss of update {number} is {mean.item()}; give a lower lr than {lr * rate:g}")
        optimizer.zero_grad()
        mean.backward()
        optimizer.step()
        seconds += _now(pictures.device) - start
        terms = {name: values.detach().mean().item() for name, values in losses.terms.items()}
        update = Update(number, lr * rate, mean.item(), terms, seconds, source.passes)
        if look is not None and (number % loop.look_every == 0 or number == total):
            found = look()
            update = update._replace(share=found.share, score=found.score)
            if found > best:
                best, kept = found, number
                state = {name: weight.detach().clone() for name, weight in tuned.state(edit).items()}
        history.append(update)
        if tell is not None:
            tell(update)
        if loop.enough is not None and update.share is not None and update.share >= loop.enough:
            break
        start = _now(pictures.device)
    if state:
        tuned.load_state(edit, state)
    return Learnt(history, kept, len(history) < total)


class Looked(NamedTuple):
    share: float
    score: float


def _losses(
    source: EditLearning, pictures: Tensor, keys: Sequence[str], loop: LoopOptions
) -> Iterator[tuple[float, EditLosses]]:
    """(factor of the learning rate, losses) of every update."""
    for number in range(loop.passes):
        for rows in loop.order(len(pictures), number):
            for losses in source.losses(pictures[rows], [keys[row] for row in rows], number):
                yield loop.factor(number), losses


def _look(
    tuned: Tuned, edit: str, probing: Probing, learnt_from: Tensor, loop: LoopOptions, learning: LearningOptions
) -> Looked:
    """At the same pictures with the same noise every time."""
    pictures = learnt_from if probing.pictures is None else probing.pictures.to(learnt_from)
    how = probing.application or Application(learning.encoding)
    found = []
    for rows in torch.arange(len(pictures)).split(AT_ONCE):
        of_rows = PerSampleRng(loop.seed, [f"looked at {row}" for row in rows.tolist()], pictures.device)
        found.append(probing.probe(apply_edit(tuned, pictures[rows], edit, of_rows, how)))
    scores = torch.cat(found)
    return Looked((scores >= loop.threshold).float().mean().item(), scores.mean().item())


def _now(device: torch.device) -> float:
    """Seconds of this process, or on a GPU of the clock once it has done all that it was told."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _check(tuned: Tuned, pictures: Tensor, keys: Sequence[str]) -> None:
    tuned.base.check_pictures(pictures)
    if not len(pictures) or len(set(keys)) < len(keys) or len(keys) != len(pictures):
        raise ValueError(
            f"{len(pictures)} pictures and {len(set(keys))} different keys: give one for each of 1 or more"
        )
    low, high = (value.item() for value in pictures.aminmax())
    if not -1 <= low <= high <= 1:
        raise ValueError(f"pictures must lie in [-1, 1], got values from {low:.4g} to {high:.4g}")
