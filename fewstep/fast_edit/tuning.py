"""What of a network an edit may change, and how it is made as new."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from fewstep.choices import require_choice, require_range
from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.tuned import Tuned, TunedAdapters, TunedCopies
from fewstep.rng import mix_seed

Kind = Literal["lora", "full"]


@dataclass(frozen=True)
class TuningOptions:
    """The weights of edits.

    kind: "lora", adapters of this rank and alpha in one frozen base, or "full", a copy of the base for each. targets,
    merged: see TunedAdapters.
    """

    kind: Kind = "lora"
    rank: int = 4
    alpha: float = 8.0
    targets: Sequence[str] | None = None
    merged: bool = False

    def __post_init__(self) -> None:
        require_choice("tuning.kind", self.kind, get_args(Kind))
        require_range("tuning.rank", self.rank, 1)
        require_range("tuning.alpha", self.alpha, above=True)

    def of(self, base: EditBase, names: Sequence[str], seed: int = 0) -> Tuned:
        """Edits of these names, all as new."""
        if self.kind == "full":
            return TunedCopies(base, names)
        tuned = TunedAdapters(base, names, self.rank, self.alpha, self.targets, self.merged)
        for name in names:
            restart(tuned, name, seed)
        return tuned


def restart(tuned: Tuned, edit: str, seed: int = 0) -> None:
    """The edit changes nothing, as before any learning, whatever else was learnt on this base.

    Of an adapter B is 0 and A is drawn, by the seed and its layer's name, as peft does (He et al. 2015, a = 5^.5).
    """
    if isinstance(tuned, TunedCopies):
        tuned.load_state(edit, tuned.base.network.state_dict())
        return
    state = {name: torch.zeros_like(weight) for name, weight in tuned.state(edit).items()}
    for name, weight in state.items():
        if ".lora_A." in name:
            generator = torch.Generator().manual_seed(mix_seed(seed, name))
            weight.copy_(nn.init.kaiming_uniform_(torch.empty(weight.shape), 5**0.5, generator=generator))
    tuned.load_state(edit, state)
