"""Every way of text-driven editing on the same base: what learning cost to which quality, what application costs.

    python benchmarks/fast_edit/bench.py --base assets/ddpm_avatars --data runs/avatars16 --out results/fast_edit.jsonl

One line of JSON for each edit, seed and method, with the looks of learning and, for every strength, the quality of
edited held-out pictures; what the file holds is not measured again. The edits are learnt from pictures of the base's
training data, watched by one reader of attributes on others, and judged on val and test by another reader, another
CLIP, and true edits. Then `python benchmarks/fast_edit/table.py results/fast_edit.jsonl`.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.fast_edit.edit_losses import loss_of
from benchmarks.fast_edit.edit_tasks import EDITS, FIRST, Task, read_pictures, task_of
from benchmarks.fast_edit.flow_edit import FlowEdit
from benchmarks.fast_edit.icd_rival import ICD
from benchmarks.fast_edit.methods import CAPTIONED, ENDS, FLOW_EDIT, ICD_EDIT, METHODS, OWN, SDEDIT, applications
from benchmarks.fast_edit.rivals import Asked, Edited, Memory, Rival
from benchmarks.fast_edit.scores import Scores, look_of
from benchmarks.fast_edit.sdedit import SDEdit
from benchmarks.fast_edit.tuned_rivals import TunedEdit
from benchmarks.icd.results import read_rows, timed
from fewstep.backbones import load_latent_diffusion
from fewstep.fast_edit.audit.auditor import Direction
from fewstep.fast_edit.direction.clips import load_edit_clip
from fewstep.fast_edit.direction.text_direction import text_direction
from fewstep.fast_edit.edit_base import load_base
from fewstep.files.contact_sheet import Sample, contact_sheet
from fewstep.files.pictures import to_picture
from fewstep.icd.pair import InvertibleConsistency
from fewstep.rewards.attribute_reader import load_attribute_reader

IDENTITY = ("base", "edit", "seed", "method", "num")  # what a line is about
TIMED = 16  # pictures of which application is timed


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--base", default="assets/ddpm_avatars")
    add("--data", default="data/avatars64", help="avatars in the size of the base")
    add("--edits", nargs="+", default=list(FIRST), choices=list(EDITS))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add("--only", nargs="+", choices=[*ENDS, *METHODS, *CAPTIONED], help="methods; default all that the bases allow")
    add("--strengths", type=float, nargs="+", default=[0.25, 0.5, 0.75, 1.0, 1.5])
    add("--cross", action="store_true", help="apply what was tuned in every way, at strength 1")
    add("--num", type=int, default=128, help="held-out pictures")
    add("--text-base", help="of text to image, for SDEdit and FlowEdit, such as assets/sd_avatars")
    add("--icd", help="export of an ICD run on avatars, for iCD")
    add("--clip", default="assets/clip_avatars", help="of the loss")
    add("--held-out", default="assets/clip_avatars_scorer", help="another CLIP")
    add("--probe", default="assets/avatar_judge", help="reader of the looks")
    add("--judge", default="assets/avatar_judge_held_out", help="reader that judges")
    add("--threads", type=int, default=1)
    add("--out", type=Path, default=Path("results/fast_edit.jsonl"))
    add("--sheets", type=Path, help="folder for sheets of all held-out pictures, of the first seed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    Bench(options).measure()


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.base, self.memory = options, load_base(options.base), Memory()
        self.methods: dict[str, Rival] = dict(METHODS)
        if options.text_base is not None:
            text_base = load_latent_diffusion(options.text_base)
            self.methods |= {SDEDIT: SDEdit(text_base), FLOW_EDIT: FlowEdit(text_base)}
        if options.icd is not None:
            self.methods[ICD_EDIT] = ICD(InvertibleConsistency.load(options.icd))
        self.names = options.only or [*ENDS, *self.methods]
        for name, option in CAPTIONED.items():
            if name in self.names and name not in self.methods:
                raise SystemExit(f"{name} needs a base that knows captions: give {option}")
        self.learn_from, self.held_out = read_pictures(options.data)
        side = self.learn_from.image.shape[2]
        if self.base.sample_size != (side, side):
            raise SystemExit(
                f"{options.data} has {side} px, {options.base} draws {self.base.sample_size}: prepare --size"
            )
        self.clips = {name: load_edit_clip(getattr(options, name), max(1, 64 // side)) for name in ("clip", "held_out")}
        self.readers = {name: load_attribute_reader(getattr(options, name)) for name in ("probe", "judge")}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        rows = read_rows([options.out]) if options.out.exists() else []
        self.done = {tuple(row[name] for name in IDENTITY) for row in rows}

    def measure(self) -> None:
        for edit in self.options.edits:
            for seed in self.options.seeds:
                task = None
                for method in self.names:
                    about = {"base": self.base.weights_sha256[:16], "edit": edit, "seed": seed, "method": method}
                    about["num"] = self.options.num
                    if tuple(about.values()) in self.done:
                        continue
                    task = task or task_of(edit, self.learn_from, self.held_out, seed, shown=self.options.num)
                    self._write(about | self._row(task, method, seed))

    def _row(self, task: Task, method: str, seed: int) -> dict[str, Any]:
        scores = self._scores(task)
        if method in ENDS:
            drawn = task.shown if method == "no edit" else task.true
            return {"learning": None, "points": [_point(OWN, 1.0, 0, 0.0, scores(drawn))]}
        asked = Asked(
            loss_of(self.clips["clip"], task.name), task.t0, task.having,
            look_of(task, self.readers["probe"]), task.captions, self.memory, task.captions_before,
        )  # fmt: skip
        edited = self.methods[method](self.base, task.sources, asked, seed)
        points = []
        for name, way, strengths in self._ways(edited):
            for strength in strengths:
                drawn = way.apply(task.shown, strength)
                if name == OWN and strength == 1 and self.options.sheets and seed == self.options.seeds[0]:
                    self._sheet(task, drawn, method)
                points.append(_point(name, strength, way.passes, 0.0, scores(drawn)))
            with self.memory.emptied():
                _, spent = timed(lambda way=way: way.apply(task.shown[:TIMED]), task.shown.device)
            for point in points[-len(strengths) :]:
                point["seconds"] = round(spent / TIMED, 6)
        learning = None if edited.learning is None else vars(edited.learning)
        return {"learning": learning, "points": points}

    def _ways(self, edited: Edited) -> Iterator[tuple[str, Edited, list[float]]]:
        yield OWN, edited, self.options.strengths
        if self.options.cross and isinstance(edited, TunedEdit):
            for name, application in applications().items():
                yield name, edited.applied(application), [1.0]

    def _scores(self, task: Task) -> Scores:
        held_out = self.clips["held_out"]
        trained = Direction(self.clips["clip"], loss_of(self.clips["clip"], task.name).directions[0])
        other = Direction(held_out, text_direction(held_out, *task.wordings, "plain"))
        return Scores(task, self.base, self.readers["judge"], trained, other)

    def _sheet(self, task: Task, drawn: Tensor, method: str) -> None:
        pairs = zip(task.shown, drawn, strict=True)
        samples = [Sample("", {"source": to_picture(old), "edit": to_picture(new)}) for old, new in pairs]
        self.options.sheets.mkdir(parents=True, exist_ok=True)
        page = contact_sheet(samples, 16, 64, lines=0)
        page.save(self.options.sheets / f"{task.name}_{method.replace(' ', '_')}.png")

    def _write(self, row: dict[str, Any]) -> None:
        with self.options.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        own = next(p for p in row["points"] if p["application"] == OWN and p["strength"] == 1)
        print(row["edit"], row["seed"], row["method"], own["quality"], flush=True)


def _point(application: str, strength: float, passes: int, seconds: float, quality: dict[str, float]) -> dict[str, Any]:
    rounded = {name: round(value, 5) for name, value in quality.items()}
    return {"application": application, "strength": strength, "passes": passes, "seconds": seconds, "quality": rounded}


if __name__ == "__main__":
    main()
