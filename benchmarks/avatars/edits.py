"""Edits of avatars whose outcome is known: is the asked attribute right, are the others kept, is the rest untouched?

    python benchmarks/avatars/edits.py --export runs/icd_avatars/export --data runs/avatars64 --num 200 \\
      --out results/avatar_edits.jsonl --pictures docs/images/avatars

Ways of the students at every scale that they know, against inversion by their teacher: DDIM in as many calls and in
50 + 50, a fixed point, and null-prompt inversion of the teacher before its guidance was distilled. One line of JSON
for each; what the file holds is not measured again. Then a table, the plot of strength against nearness to the true
edit, and a sheet of edits of each kind at the scale --shown.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.avatars.edit_tables import at_equal_strength, markdown, plot, sheet, strip
from benchmarks.avatars.evaluation_set import Avatars, read_avatars
from benchmarks.icd.bench import fine_times, original_of
from benchmarks.icd.chains import Chains
from benchmarks.icd.judge import psnr
from benchmarks.icd.results import Results, Row, timed
from fewstep.backbones import DiffusersDenoiser
from fewstep.diffusion.guidance import DynamicGuidance
from fewstep.diffusion.solvers import ddim, fixed_point
from fewstep.editors.edits import true_mask
from fewstep.editors.null_prompt import null_prompt, with_null
from fewstep.icd.pair import Editing, InvertibleConsistency
from fewstep.rewards.attribute_reader import load_attribute_reader
from fewstep.rewards.attributes import judge
from fewstep.rng import PerSampleRng

READERS = {"judge": "assets/avatar_judge", "held_out": "assets/avatar_judge_held_out"}
MARGIN = 4  # pixels around what the true edit changes, one that is drawn, that count as neither
Times = tuple[float, ...]
WAYS = {
    "prompt switch": Editing(),
    "prompt switch, replay": Editing(replay=True),
    "prompt-to-prompt": Editing("prompt_to_prompt"),
    "prompt-to-prompt, replay": Editing("prompt_to_prompt", replay=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", required=True, help="of an ICD run")
    parser.add_argument("--data", default="data/avatars64")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--guided-below", type=float, default=0.8)
    parser.add_argument("--shown", type=float, default=4.0, help="guidance scale of the sheet")
    parser.add_argument("--without", nargs="+", default=[], help='ways to leave out, such as "null prompt 50+50"')
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/avatar_edits.jsonl"))
    parser.add_argument("--pictures", type=Path, help="folder for the plot and the sheet")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    pictures = bench.measure()
    print(markdown(options.out))
    print(at_equal_strength(options.out))
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        plot(options.out, options.pictures / "strength.png")
        sheet(bench.avatars, pictures, options.pictures / "edits.png")
        strip(bench.avatars, pictures["iCD prompt switch, replay"], options.pictures / "strip.png")


class Bench:
    """The pair, the avatars, and what is measured of each edit."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.results = options, Results(options.out)
        self.pair = InvertibleConsistency.load(options.export)
        self.avatars = read_avatars(options.data, options.split, options.num)
        self.readers = {name: load_attribute_reader(source) for name, source in READERS.items()}
        self.latents = self.pair.model.latents
        self.scales = list(self.pair.guidance_scales)
        model = self.pair.model
        denoiser = DiffusersDenoiser(model.network, model.parametrization.schedule)  # its adapters rest
        self.chains = Chains(denoiser, model.parametrization, options.batch)
        self.plain: Chains | None = None
        if (original := original_of(options.export)) is not None:
            unguided = lambda x, t, _, condition: original(x, t, condition)  # noqa: E731
            self.plain = Chains(unguided, model.parametrization, options.batch, null_prompt(original))
        with torch.no_grad():
            self.data = torch.cat([self.latents.encode(part) for part in self.avatars.image.split(options.batch)])
        self.noise = PerSampleRng(options.seed, self.avatars.key).normal(*self.data.shape[1:])
        self.source, self.target = model.prompts(self.avatars.caption), model.prompts(self.avatars.edited_caption)

    def measure(self) -> dict[str, Tensor]:
        """Every way at every scale; returns {way: edited pictures} at the scale that the sheet shows."""
        shown = {}
        for way, scale, edit in self._ways():
            if way in self.options.without:
                continue
            row = self._row(way, scale)
            if not (lacking := self.results.lacks(row)) and scale != self.options.shown:
                continue
            drawn, seconds = timed(edit, torch.device("cpu"))
            if scale == self.options.shown:
                shown[way] = drawn
            if lacking:
                self.results.add(row, self.values(drawn), seconds=round(seconds / len(drawn), 5))
        return shown

    def _ways(self) -> list[tuple[str, float, Callable[[], Tensor]]]:
        ends, start = self.pair.boundaries, self.pair.boundaries.start
        ways: list[tuple[str, float, Callable[[], Tensor]]] = [
            ("no edit", 0, lambda: self._through(self.avatars.image)),
            ("true edit", 0, lambda: self._through(self.avatars.edited)),
        ]
        few, many = (ends.encode_times, ends.decode_times), (fine_times(start), fine_times(0)[::-1])
        teachers = {
            "DDIM 4+4": partial(self._by_ddim, *few, ddim),
            "fixed point 4+4": partial(self._by_ddim, *few, fixed_point),
            "DDIM 50+50": partial(self._by_ddim, *many, ddim),
        }
        for scale in self.scales:
            for name, editing in WAYS.items():
                chosen = replace(editing, guidance_scale=scale, guided_below=self.options.guided_below)
                ways.append((f"iCD {name}", scale, partial(self._by_students, chosen)))
            ways += [(name, scale, partial(edit, scale)) for name, edit in teachers.items()]
            if self.plain is not None and scale > 1:
                ways.append(("null prompt 50+50", scale, partial(self._by_null_prompt, self.plain, *many, scale)))
        return ways

    def _row(self, way: str, scale: float) -> Row:
        export = self.options.export if way.startswith("iCD") else None  # a teacher is the same for all its students
        about = {"part": "avatar edits", "config": "", "export": export, "method": way}
        about |= {"start": self.pair.boundaries.start, "split": self.options.split, "num": len(self.avatars)}
        return about | {"guidance": f"w={scale:g}, t<={self.options.guided_below}", "seed": self.options.seed}

    @torch.no_grad()
    def _through(self, images: Tensor) -> Tensor:
        return self._decoded(torch.cat([self.latents.encode(part) for part in images.split(self.options.batch)]))

    def _by_students(self, editing: Editing) -> Tensor:
        parts, size, a = [], self.options.batch, self.avatars
        for start in range(0, len(a), size):
            rows = slice(start, start + size)
            rng = PerSampleRng(self.options.seed, a.key[rows])
            parts.append(self.pair.edit(a.image[rows], a.caption[rows], a.edited_caption[rows], rng, editing))
        return torch.cat(parts)

    def _by_ddim(self, up: Times, down: Times, solver: Callable[..., Tensor], scale: float) -> Tensor:
        code, _ = self.chains.encode(self.data, self.noise, up, self.source, solver=solver)
        guidance = DynamicGuidance(scale, self.options.guided_below)
        return self._decoded(self.chains.decode(code, down, self.target, guidance, key=(up, solver))[0])

    def _by_null_prompt(self, chains: Chains, up: Times, down: Times, scale: float) -> Tensor:
        """Guided away from the source's caption at all times, as its authors do."""
        code, _ = chains.encode(self.data, self.noise, up, self.source)
        condition = with_null(self.target, self.source)
        return self._decoded(chains.decode(code, down, condition, DynamicGuidance(scale))[0])

    @torch.no_grad()
    def _decoded(self, latents: Tensor) -> Tensor:
        return torch.cat([self.latents.decode(part) for part in latents.split(self.options.batch)])

    @torch.no_grad()
    def values(self, edited: Tensor) -> dict[str, Tensor]:
        """Of each picture, [N]: asked_* 1 where the changed attribute is as asked, kept_* share of the others that are
        as before, nearness to the true edit in dB, change of the background as mean absolute difference of 0..255."""
        values, avatars = {}, self.avatars
        for name, reader in self.readers.items():
            found = judge(reader, edited, avatars.edited_attributes)
            changed = torch.tensor([[key == word for key in reader.values] for word in avatars.changed])
            right, asked = found.right[:, 0], found.asked[:, 0]
            values[f"asked_{name}"] = (right & changed).any(1).float()
            others = asked & ~changed
            values[f"kept_{name}"] = (right & others).sum(1) / others.sum(1)
        values["psnr_to_true_edit"] = psnr(edited, avatars.edited)
        background = untouched(avatars)
        change = (edited - avatars.image).abs().mean(1, keepdim=True) * 127.5
        values["background_change"] = (change * background).sum((1, 2, 3)) / background.sum((1, 2, 3)).clamp(min=1)
        return values


def untouched(avatars: Avatars) -> Tensor:
    """[N, 1, H, W], 1 where neither the true edit changes a pixel nor one near it."""
    changed = true_mask(avatars.image, avatars.edited)
    return 1 - F.max_pool2d(changed, 2 * MARGIN + 1, stride=1, padding=MARGIN)


if __name__ == "__main__":
    main()
