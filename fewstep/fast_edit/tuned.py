"""What an edit changes in the base: a LoRA adapter for each edit, or a whole network for each, behind one signature."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from fewstep.backbones import Adapters
from fewstep.fast_edit.edit_base import EditBase
from fewstep.files.hub import check_keys

Block = tuple[str | None, int]  # an edit's name, or None for the frozen base, and how many rows have it


class Tuned(Protocol):
    """A frozen base and named edits of it. A call gives all rows one edit, or none, or tells of them in blocks."""

    base: EditBase
    names: tuple[str, ...]

    def parameters(self, name: str) -> list[nn.Parameter]:
        """What of an edit is trained."""
        ...

    def state(self, name: str) -> dict[str, Tensor]:
        """What an edit's file holds."""
        ...

    def load_state(self, name: str, state: dict[str, Tensor]) -> None:
        """Take what `state` gave; ValueError in one line where it does not fit."""
        ...

    def predict(self, x: Tensor, t: Tensor, edit: str | Sequence[Block] | None) -> Tensor:
        """Answers [B, C, h, w] to x_t [B, C, h, w] at times t [B]."""
        ...

    def scaled(self, strength: float) -> AbstractContextManager[None]:
        """Inside, weights are base + strength (edited - base): 0 is the base, 1 the edit as learnt. Not to train in."""
        ...


class TunedAdapters:
    """A LoRA adapter for each edit in the base's own network, which outside `predict` stays the base.

    rank, alpha, targets, merged: see Adapters; the targets of a UNet2DModel are its attention and its convolutions.
    """

    def __init__(
        self,
        base: EditBase,
        names: Sequence[str] = ("edit",),
        rank: int = 4,
        alpha: float = 8,
        targets: Sequence[str] | None = None,
        merged: bool = False,
    ) -> None:
        self.adapters = Adapters(base.network, names, rank, alpha, targets, merged, base.weights_sha256)
        self.base, self.names = base, self.adapters.names

    def parameters(self, name: str) -> list[nn.Parameter]:
        return self.adapters.parameters(name)

    def state(self, name: str) -> dict[str, Tensor]:
        return self.adapters.state(name)

    def load_state(self, name: str, state: dict[str, Tensor]) -> None:
        self.adapters.load_state(name, state)

    def predict(self, x: Tensor, t: Tensor, edit: str | Sequence[Block] | None) -> Tensor:
        """All rows in one pass of the network."""
        with self.adapters.rows(_blocks(edit, len(x))):
            return self.base.predict(x, t)

    def scaled(self, strength: float) -> AbstractContextManager[None]:
        return self.adapters.scaled(strength)


class TunedCopies:
    """A copy of the base's network for each edit, of which every weight is trained, as both papers do."""

    def __init__(self, base: EditBase, names: Sequence[str] = ("edit",)) -> None:
        if not names or len(set(names)) < len(names):
            raise ValueError(f"edits need different names, got {list(names)}")
        self.base, self.names = base, tuple(names)
        self.networks = {name: copy.deepcopy(base.network).requires_grad_(True) for name in names}

    def parameters(self, name: str) -> list[nn.Parameter]:
        return list(self._network(name).parameters())

    def state(self, name: str) -> dict[str, Tensor]:
        return self._network(name).state_dict()

    def load_state(self, name: str, state: dict[str, Tensor]) -> None:
        network = self._network(name)
        check_keys(state, network.state_dict(), f"the state of {name}")
        network.load_state_dict(state)

    def predict(self, x: Tensor, t: Tensor, edit: str | Sequence[Block] | None) -> Tensor:
        """One pass of each network that is named, with all of its rows."""
        blocks = _blocks(edit, len(x))
        sizes = [rows for _, rows in blocks]
        if sum(sizes) != len(x):
            raise ValueError(f"the blocks tell of {sum(sizes)} rows, but there are {len(x)}")
        states, times = x.split(sizes), t.split(sizes)
        answers: dict[int, Tensor] = {}
        for name in dict.fromkeys(name for name, _ in blocks):
            places = [place for place, (other, _) in enumerate(blocks) if other == name]
            network = self.base.network if name is None else self._network(name)
            rows, at = (torch.cat([part[place] for place in places]) for part in (states, times))
            answer = self.base.predict(rows, at, network)
            answers |= dict(zip(places, answer.split([sizes[place] for place in places]), strict=True))
        return torch.cat([answers[place] for place in range(len(blocks))])

    @contextmanager
    def scaled(self, strength: float) -> Iterator[None]:
        with ExitStack() as after:
            for network in self.networks.values():
                for own, plain in zip(network.parameters(), self.base.network.parameters(), strict=True):
                    after.callback(setattr, own, "data", own.data)
                    own.data = torch.lerp(plain.data, own.data, strength)
            yield

    def _network(self, name: str) -> nn.Module:
        if name not in self.networks:
            raise ValueError(f"no edit is named {name!r}; choose one of {', '.join(self.names)}")
        return self.networks[name]


def predict_mixed(
    tuned: Tuned, x: Tensor, t: Tensor, shares: Mapping[str | None, float], plain: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """(sum of share * answer of that edit to x, the base's answer to `plain`), each [B, C, h, w], in one call of rows.

    The noise mixing of Kim et al. 2022 (DiffusionCLIP, section 3.4) where the shares, of which None is the base's, sum
    to 1: any kind of answer is then as good as noise. x, plain: [B, C, h, w] at times t [B]; where they are the same
    object, the base is asked once.
    """
    asked: list[tuple[str | None, Tensor]] = [(name, x) for name in shares]
    known = list(shares).index(None) if plain is x and None in shares else None
    if plain is not None and known is None:
        known = len(asked)
        asked.append((None, plain))
    rows = torch.cat([state for _, state in asked])
    answers = tuned.predict(rows, t.repeat(len(asked)), [(name, len(x)) for name, _ in asked]).split(len(x))
    mixed = torch.zeros_like(answers[0])
    for share, answer in zip(shares.values(), answers, strict=False):
        mixed = mixed + share * answer
    return mixed, None if known is None else answers[known]


def with_base(edits: Mapping[str, float]) -> dict[str | None, float]:
    """Shares of edits and, where they do not sum to 1, of the base; those of none are left out."""
    shares: dict[str | None, float] = {name: share for name, share in edits.items() if share}
    rest = 1 - sum(shares.values())
    return shares if abs(rest) < 1e-9 else shares | {None: rest}


def _blocks(edit: str | Sequence[Block] | None, rows: int) -> Sequence[Block]:
    return [(edit, rows)] if edit is None or isinstance(edit, str) else edit
