"""Edits of avatars whose outcome is known: is the asked attribute right, are the others kept, is the rest untouched?

    python benchmarks/avatars/edits.py --export runs/icd_avatars/export --data runs/avatars64 --num 200 \\
      --out results/avatar_edits.jsonl --pictures docs/images/avatars

Ways of the students at every scale that they know, against DDIM inversion by their teacher in as many calls and in
50 + 50. One line of JSON for each; what the file holds is not measured again. Then a table, the plot of strength
against nearness to the true edit, and a sheet of edits of each kind.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.avatars.edit_tables import markdown, plot, sheet
from benchmarks.avatars.evaluation_set import Avatars, read_avatars
from benchmarks.icd.bench import fine_times
from benchmarks.icd.chains import Chains
from benchmarks.icd.judge import psnr
from benchmarks.icd.results import Results, Row, timed
from fewstep.backbones import DiffusersDenoiser
from fewstep.diffusion.guidance import DynamicGuidance
from fewstep.icd.pair import Editing, InvertibleConsistency
from fewstep.rewards.attribute_reader import load_attribute_reader
from fewstep.rewards.attributes import judge
from fewstep.rng import PerSampleRng

READERS = {"judge": "assets/avatar_judge", "held_out": "assets/avatar_judge_held_out"}
UNTOUCHED = 2 / 255  # a pixel whose true edit differs by less is background
MARGIN = 4  # pixels around what the true edit changes, one that is drawn, that count as neither
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
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        plot(options.out, options.pictures / "strength.png")
        sheet(bench.avatars, pictures, options.pictures / "edits.png")


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

    def measure(self) -> dict[str, Tensor]:
        """Every way at every scale; returns {way at a scale: edited pictures}, of the first pictures."""
        shown = {}
        for way, scale, edit in self._ways():
            row = self._row(way, scale)
            drawn, seconds = timed(edit, torch.device("cpu"))
            shown[f"{way}\nw = {scale:g}" if scale else way] = drawn
            if self.results.lacks(row):
                self.results.add(row, self.values(drawn), seconds=round(seconds / len(drawn), 5))
        return shown

    def _ways(self) -> list[tuple[str, float, Callable[[], Tensor]]]:
        ends, start = self.pair.boundaries, self.pair.boundaries.start
        ways: list[tuple[str, float, Callable[[], Tensor]]] = [
            ("no edit", 0, lambda: self._through(self.avatars.image)),
            ("true edit", 0, lambda: self._through(self.avatars.edited)),
        ]
        grids = {
            "DDIM 4+4": (ends.encode_times, ends.decode_times),
            "DDIM 50+50": (fine_times(start), fine_times(0)[::-1]),
        }
        for scale in self.scales:
            for name, editing in WAYS.items():
                chosen = replace(editing, guidance_scale=scale, guided_below=self.options.guided_below)
                ways.append((f"iCD {name}", scale, lambda chosen=chosen: self._by_students(chosen)))
            for name, times in grids.items():
                ways.append((name, scale, lambda times=times, scale=scale: self._by_teacher(*times, scale)))
        return ways

    def _row(self, way: str, scale: float) -> Row:
        about = {"part": "avatar edits", "config": "", "export": self.options.export, "method": way}
        about |= {"start": self.pair.boundaries.start, "split": self.options.split, "num": len(self.avatars)}
        return about | {"guidance": f"w={scale:g}, t<={self.options.guided_below}", "seed": self.options.seed}

    @torch.no_grad()
    def _through(self, images: Tensor) -> Tensor:
        parts = images.split(self.options.batch)
        return torch.cat([self.latents.decode(self.latents.encode(part)) for part in parts])

    def _by_students(self, editing: Editing) -> Tensor:
        parts, size, a = [], self.options.batch, self.avatars
        for start in range(0, len(a), size):
            rows = slice(start, start + size)
            rng = PerSampleRng(self.options.seed, a.key[rows])
            parts.append(self.pair.edit(a.image[rows], a.caption[rows], a.edited_caption[rows], rng, editing))
        return torch.cat(parts)

    @torch.no_grad()
    def _by_teacher(self, up: tuple[float, ...], down: tuple[float, ...], scale: float) -> Tensor:
        size, prompts = self.options.batch, self.pair.model.prompts
        data = torch.cat([self.latents.encode(part) for part in self.avatars.image.split(size)])
        noise = PerSampleRng(self.options.seed, self.avatars.key).normal(*data.shape[1:])
        code, _ = self.chains.encode(data, noise, up, prompts(self.avatars.caption))
        guidance = DynamicGuidance(scale, self.options.guided_below)
        found, _ = self.chains.decode(code, down, prompts(self.avatars.edited_caption), guidance, key=up)
        return torch.cat([self.latents.decode(part) for part in found.split(size)])

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
    changed = ((avatars.edited - avatars.image).abs().amax(1, keepdim=True) > UNTOUCHED).float()
    return 1 - F.max_pool2d(changed, 2 * MARGIN + 1, stride=1, padding=MARGIN)


if __name__ == "__main__":
    main()
