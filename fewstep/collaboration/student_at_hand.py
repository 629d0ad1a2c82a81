"""The student of a run, which no file holds yet, as the draft of a cascade: how a checkpoint draws with its teacher."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from fewstep.choices import require_choice
from fewstep.collaboration.oracles import reads_attributes
from fewstep.collaboration.pipeline import Collaboration
from fewstep.collaboration.teacher import SOLVERS


@dataclass(frozen=True)
class CascadeOptions:
    """What `python -m fewstep.collaboration draw` is told, with its names and defaults, for a student in a checkpoint.

    oracle: NAME or NAME=SOURCE, see load_oracle. calibration: file of `calibrate` for the export of the same weights.
    mean_passes, k: one of them, the budget of passes of the teacher's network for a picture on average, or the
    percentage of drafts that are repaired. teacher_steps, teacher_scale, solver: see Teacher.
    """

    oracle: str
    calibration: str
    mean_passes: float | None = None
    k: float | None = None
    teacher_steps: int = 10
    teacher_scale: float = 8.0
    solver: str = "dpm_solver"

    def __post_init__(self) -> None:
        require_choice("cascade.solver", self.solver, SOLVERS)
        if (self.mean_passes is None) == (self.k is None):
            raise ValueError("cascade: give one of mean_passes and k, how much the teacher shall improve")

    def pipeline(
        self,
        export: Callable[[str], None],
        student_steps: int,
        student_scale: float,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Collaboration:
        """Of what export(folder) writes, so that it is the cascade that the calibration was made for, or refused."""
        with TemporaryDirectory() as folder:
            export(folder)
            return Collaboration.from_pretrained(
                folder,
                oracle=self.oracle,
                calibration=self.calibration,
                student_steps=student_steps,
                student_scale=student_scale,
                teacher_steps=self.teacher_steps,
                teacher_scale=self.teacher_scale,
                solver=self.solver,
                dtype=dtype,
                device=device,
            )

    def draw(
        self, pipe: Collaboration, prompts: Sequence[str], seeds: Sequence[str], asked: Sequence[Any] | None = None
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] of prompts. asked: the attributes of each, for an oracle that reads them."""
        reads = reads_attributes(self.oracle)
        if reads and asked is None:
            raise ValueError(f"cascade.oracle {self.oracle} reads attributes, which these prompts do not have")
        return pipe(prompts, seeds, self.mean_passes, self.k, asked=asked if reads else None).images
