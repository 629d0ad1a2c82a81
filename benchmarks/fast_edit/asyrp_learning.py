"""The block of Asyrp learnt from pictures encoded by DDIM; Kwon et al. 2023 (arXiv 2210.10960), Eq. 7."""

from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.fast_edit.asyrp import AsyrpEdit, Block, asymmetric_step
from benchmarks.fast_edit.h_space import answer_with_h
from benchmarks.fast_edit.rivals import Asked, Learning, Point
from benchmarks.fast_edit.tuned_rivals import pictures_used
from benchmarks.icd.results import timed
from fewstep.diffusion.solvers import time_like
from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.encoding import Encoder, Encoding
from fewstep.fast_edit.learn import LoopOptions
from fewstep.rng import mix_seed


@dataclass(frozen=True)
class Asyrp:
    """A rival, learnt by the loss of all: at each step, the data that are aimed at against those of the plain answer.

    t0: None for the edit's; theirs is 1, from which small pictures do not come back. t_edit: as a share of t0.
    num_steps: of decoding, the same in learning.
    """

    t0: float | None = None
    encoding_steps: int = 39
    num_steps: int = 12
    t_edit: float = 0.3
    lr: float = 5e-3
    loop: LoopOptions = field(default_factory=lambda: LoopOptions(passes=2, look_every=9))

    def __call__(self, base: EditBase, sources: Tensor, asked: Asked, seed: int = 0) -> AsyrpEdit:
        encoding, loop = Encoding(self.t0 or asked.t0, "ddim", self.encoding_steps), replace(self.loop, seed=seed)
        encoder = Encoder(base, encoding, len(sources))
        parts = sources.split(loop.batch_size)
        _, spent = timed(lambda: [encoder(base.encode(part)) for part in parts], sources.device)
        told = Learning(spent / len(sources), encoding.passes, len(sources))
        block = _block_of(base, sources, encoder.times[-1], seed)
        edit = AsyrpEdit(base, block, encoding, self.num_steps, self.t_edit * encoding.t0, asked.memory, told)
        optimizer = torch.optim.Adam(block.parameters(), self.lr)
        seconds, passes, best, state = 0.0, 0, -1.0, dict[str, Tensor]()
        batches = [(number, rows) for number in range(loop.passes) for rows in loop.order(len(sources), number)]
        steps = len(edit.edited_steps)
        for place, (number, rows) in enumerate(batches):
            x = encoder(base.encode(sources[rows]))
            used = pictures_used(place + 1, loop.batch_size, 1, len(sources))
            for updates, step in enumerate(edit.edited_steps, place * steps + 1):
                views = mix_seed(seed, f"views {number} {rows} {step}")
                x, spent = timed(partial(_update, edit, asked, optimizer, x, step, views), sources.device)
                seconds, passes = seconds + spent, passes + 2 * len(rows)
                if updates % loop.look_every and updates != len(batches) * steps:
                    continue
                looked = asked.look(edit.apply)
                costs = seconds + told.encoding_seconds * used, passes + encoding.passes * used
                told.points.append(Point(updates, *costs, used, *looked))
                if sum(looked) > best:
                    best, told.best = sum(looked), updates
                    state = {name: weight.clone() for name, weight in block.state_dict().items()}
        block.load_state_dict(state)
        return edit


def _block_of(base: EditBase, sources: Tensor, t0: float, seed: int) -> Block:
    data = base.encode(sources[:1])
    with torch.no_grad():
        _, h, embedding = answer_with_h(base, data, time_like(data, t0))
    torch.manual_seed(mix_seed(seed, "asyrp"))
    return Block(h.shape[1], embedding.shape[1]).to(h)


def _update(
    edit: AsyrpEdit,
    asked: Asked,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    step: tuple[float, float],
    views: int,
) -> Tensor:
    """One step of Adam; returns the state after the step of decoding."""
    found = asymmetric_step(edit.base, edit.block, x, *(time_like(x, time) for time in step))
    plain = edit.base.decode(found.plain)
    optimizer.zero_grad()
    asked.loss(edit.base.decode(found.data), plain, asked.loss.reference(plain), views).total.mean().backward()
    optimizer.step()
    return found.after.detach()
