"""One frozen network that is the teacher and, with adapters, its students, too: what they are asked is one call."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from fewstep.backbones import Adapters
from fewstep.diffusion.guidance import Condition, Denoiser, guide
from fewstep.distillation.network_calls import Call, Role

PAIR: Mapping[Role, str] = {"forward": "forward", "reverse": "reverse"}  # the adapter of each role


class SharedBase:
    """`Networks` of consistency.py that answer all calls in one pass. A third of the weights of three networks.

    denoiser: of the network that `adapters` were put into, which is the teacher. roles: the adapter of each student.
    null_condition: for a network without guidance embedding; the teacher is then guided classifier-free, in two rows,
    and students are told no scale. `denoisers` has the teacher and every student by role.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        adapters: Adapters,
        roles: Mapping[Role, str] = PAIR,
        null_condition: Condition | None = None,
    ) -> None:
        self.denoiser, self.adapters, self.null_condition = denoiser, adapters, null_condition
        self.names: dict[Role, str | None] = {"teacher": None, **roles}
        self.denoisers: dict[Role, Denoiser] = {role: partial(self._alone, role) for role in self.names}

    @property
    def teacher(self) -> Denoiser:
        return self.denoisers["teacher"]

    @property
    def forward(self) -> Denoiser:
        return self.denoisers["forward"]

    @property
    def reverse(self) -> Denoiser:
        return self.denoisers["reverse"]

    def _alone(self, role: Role, x: Tensor, t: Tensor, guidance_scale: Tensor, condition: Condition) -> Tensor:
        return self([Call(role, x, t, guidance_scale, condition)])[0]

    def __call__(self, calls: Sequence[Call]) -> list[Tensor]:
        asked = [(place, row) for place, call in enumerate(calls) for row in self._rows(call)]
        asked.sort(key=lambda one: list(self.names).index(one[1].network))  # rows of one adapter side by side
        rows = [row for _, row in asked]
        scales = None if self.null_condition is not None else torch.cat([row.guidance_scale for row in rows])
        sizes = [len(row.x) for row in rows]
        with self.adapters.rows([(self.names[row.network], size) for row, size in zip(rows, sizes, strict=True)]):
            output = self.denoiser(
                torch.cat([row.x for row in rows]),
                torch.cat([row.t for row in rows]),
                scales,  # type: ignore[arg-type]  # None for a network without embedding
                {key: torch.cat([row.condition[key] for row in rows]) for key in rows[0].condition},
            )
        answers: dict[int, list[Tensor]] = {}
        for (place, _), answer in zip(asked, output.split(sizes), strict=True):
            answers.setdefault(place, []).append(answer)
        return [self._answer(call, answers[place]) for place, call in enumerate(calls)]

    def _answer(self, call: Call, found: list[Tensor]) -> Tensor:
        return guide(found[0], found[1], call.guidance_scale) if len(found) == 2 else found[0]

    def _rows(self, call: Call) -> list[Call]:
        """What is asked for a call: of a teacher without embedding the unguided answer, too, and that first."""
        if self.null_condition is None or call.network != "teacher":
            return [call]
        null = {
            key: value.to(call.x.device).expand_as(call.condition[key]) for key, value in self.null_condition.items()
        }
        return [call._replace(condition=null), call]
