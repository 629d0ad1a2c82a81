"""What the tab of learnt edits answers: a picture with several edits of files at once. Knows no gradio."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL.Image import Image
from torch import Tensor

from fewstep.choices import require_range
from fewstep.demo.fields import given_number, given_seed
from fewstep.fast_edit.application import Application, apply_edit
from fewstep.fast_edit.command_line.application import load_on_base, told_of_audit
from fewstep.fast_edit.edit_file import check_together, read_edit
from fewstep.fast_edit.own_size import edit_at_own_size
from fewstep.fast_edit.tuned import Tuned
from fewstep.files.pictures import read_picture, read_whole, to_picture
from fewstep.icd.commands import require_device
from fewstep.one_line import one_line
from fewstep.rng import PerSampleRng

MOST = 16  # files: the page has a slider for each
STRONGEST = 2.0


@dataclass(frozen=True)
class FastEditAnswers:
    """Edits of one base. how: they are applied, as the first file says. notes: on those that passed no audit."""

    tuned: Tuned
    how: Application
    notes: Mapping[str, str]
    device: str = "cpu"

    @classmethod
    def load(cls, files: Sequence[Path], base: str | None = None, device: str = "cpu") -> "FastEditAnswers":
        """base: where it is, if not where the first file says. ValueError in one line."""
        require_device(device)
        if not 1 <= len(files) <= MOST:
            raise ValueError(f"{len(files)} edits: the page takes 1 to {MOST}")
        edits = [read_edit(file) for file in files]
        check_together(edits)
        notes = {edit.name: told_of_audit(edit.about) for edit in edits}
        return cls(load_on_base(edits, base, device), edits[0].about.application, notes, device)

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the files."""
        return self.tuned.names

    def edit(
        self, picture: Image | None, seed: float | None, *strengths: float | None
    ) -> tuple[Image | None, str, bool]:
        """As `python -m fewstep.fast_edit mix` has it: strengths, one of each edit, are its share of the answer.

        (picture, what it took or what is wrong, whether something is wrong).
        """
        began = time.perf_counter()
        try:
            rng = PerSampleRng(given_seed(seed), ["picture"], self.device)
            shares = self._shares(strengths)
            edit = edit_at_own_size if self.how.residual else apply_edit
            edited = edit(self.tuned, self._read(picture), shares, rng, self.how)
        except ValueError as error:
            return None, f"Error: {one_line(error, 800)}", True
        told = ", ".join(f"{name} {share * self.how.strength:g}{self.notes[name]}" for name, share in shares.items())
        cost = f"{self.how.passes(shares)} network passes · {time.perf_counter() - began:.2f} s"
        return to_picture(edited), f"{told} · {cost}", False

    def _shares(self, strengths: Sequence[float | None]) -> dict[str, float]:
        """Of the edits that are not at 0."""
        given = {name: given_number(value, name) for name, value in zip(self.names, strengths, strict=True)}
        for name, value in given.items():
            require_range(name, value, 0, STRONGEST)
        shares = {name: value for name, value in given.items() if value}
        if not shares:
            raise ValueError("all edits are at 0; move a slider to the right")
        return shares

    def _read(self, picture: Image | None) -> Tensor:
        """[1, 3, H, W]: whole, or where the answer is what the base decodes, its middle of the base's shape."""
        if picture is None:
            raise ValueError("choose a picture first")
        size = self.tuned.base.sample_size
        return (read_whole(picture) if self.how.residual else read_picture(picture, size)).to(self.device)
