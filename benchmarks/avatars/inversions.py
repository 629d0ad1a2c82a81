"""Avatars encoded and decoded again, and drawn from noise: pairs of students beside their teacher (iCD, Table 2).

    python benchmarks/avatars/inversions.py --export G=runs/icd_avatars/export --export C=runs/icd_avatars_C/export \\
      --data runs/avatars64 --num 200 --out results/avatar_inversions.jsonl

NAME of an export as in benchmarks/icd/claims.py; all share one teacher. Nothing is guided while avatars are encoded and
decoded again; from noise they are drawn at --scale. One line of JSON for each; what the file holds is not measured
again.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.avatars.edit_tables import cells
from benchmarks.avatars.evaluation_set import read_avatars
from benchmarks.icd.bench import fine_times
from benchmarks.icd.chains import Chains
from benchmarks.icd.inversions import chain_name
from benchmarks.icd.judge import psnr
from benchmarks.icd.results import Results, Row, read_rows
from fewstep.backbones import DiffusersDenoiser
from fewstep.diffusion.guidance import DynamicGuidance
from fewstep.icd.pair import InvertibleConsistency
from fewstep.losses import l2
from fewstep.rewards.attribute_reader import load_attribute_reader
from fewstep.rewards.attributes import judge
from fewstep.rng import PerSampleRng

READER = "assets/avatar_judge"
COLUMNS = {
    "latent_mse": ("latent MSE", "{:.4f}"),
    "psnr": ("PSNR, dB", "{:.2f}"),
    "right": ("everything right", "{:.3f}"),
    "code_mean_square": ("mean square of codes", "{:.2f}"),
    "drawn_right": ("drawn from noise, everything right", "{:.3f}"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--data", default="data/avatars64")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--scale", type=float, default=2.0, help="guidance of what is drawn from noise")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/avatar_inversions.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name, folder in (each.split("=", 1) for each in options.export):
        Bench(name, folder, options).measure()
    print(markdown(options.out))


class Bench:
    """One pair, its teacher, and the avatars as latents."""

    def __init__(self, name: str, folder: str, options: argparse.Namespace) -> None:
        self.name, self.folder, self.options = name, folder, options
        self.pair, self.results = InvertibleConsistency.load(folder), Results(options.out)
        self.avatars = read_avatars(options.data, options.split, options.num)
        self.reader = load_attribute_reader(READER)
        model, parts = self.pair.model, self.avatars.image.split(options.batch)
        with torch.no_grad():
            self.data = torch.cat([model.latents.encode(part) for part in parts])
        self.noise = PerSampleRng(options.seed, self.avatars.key).normal(*self.data.shape[1:])
        self.condition = model.prompts(self.avatars.caption)

    def measure(self) -> None:
        """The teacher in many and in as few steps, and the students."""
        model, ends = self.pair.model, self.pair.boundaries
        self._add("autoencoder", "teacher", None, 0, self.data, None, None)
        teacher = Chains(
            DiffusersDenoiser(model.network, model.parametrization.schedule), model.parametrization, self.options.batch
        )
        for start in (ends.start, 0.0) if ends.start else (0.0,):
            up = start, *ends.times[1:]
            self._chain(f"DDIM {chain_name(ends)}", "teacher", teacher, up, ends.decode_times)
            self._chain("DDIM 50+50", "teacher", teacher, fine_times(start), fine_times(0)[::-1])
        students = Chains(self.pair.forward, model.parametrization, self.options.batch, self.pair.reverse)
        self._chain(f"iCD {chain_name(ends)}", self.name, students, ends.encode_times, ends.decode_times)

    def _chain(self, way: str, config: str, chains: Chains, up: tuple[float, ...], down: tuple[float, ...]) -> None:
        if not self.results.lacks(self._row(way, config, up[0])):
            return
        code, _ = chains.encode(self.data, self.noise, up, self.condition)
        found, _ = chains.decode(code, down, self.condition)
        guidance = DynamicGuidance(self.options.scale)
        drawn, _ = chains.decode(self.noise, down, self.condition, guidance, key="noise")
        self._add(way, config, up[0], len(up) + len(down) - 2, found, code, drawn)

    @torch.no_grad()
    def _add(
        self, way: str, config: str, start: float | None, calls: int, found: Tensor, code: Tensor | None,
        drawn: Tensor | None,
    ) -> None:  # fmt: skip
        if not self.results.lacks(row := self._row(way, config, start)):
            return
        pictures = self._images(found)
        values = {"latent_mse": l2(found, self.data), "psnr": psnr(pictures, self.avatars.image)}
        values["right"] = self._right(pictures)
        if code is not None and drawn is not None:
            values["code_mean_square"] = code.square().mean((1, 2, 3))
            values["drawn_right"] = self._right(self._images(drawn))
        self.results.add(row, values, nfe=calls)

    def _row(self, way: str, config: str, start: float | None) -> Row:
        export = None if config == "teacher" else self.folder
        about = {"part": "avatar inversions", "config": config, "export": export, "method": way, "start": start}
        about |= {"split": self.options.split, "num": len(self.avatars), "seed": self.options.seed}
        return about | {"guidance": f"drawn at w={self.options.scale:g}"}

    def _images(self, latents: Tensor) -> Tensor:
        return torch.cat([self.pair.model.latents.decode(part) for part in latents.split(self.options.batch)])

    def _right(self, pictures: Tensor) -> Tensor:
        return judge(self.reader, pictures, self.avatars.attributes).all_right.float()


def markdown(path: Path) -> str:
    """A line for each way, with 95 % intervals over avatars."""
    titles = " | ".join(title for title, _ in COLUMNS.values())
    lines = [f"| | way | start | calls | {titles} |", f"|---|---|--:|--:|{'--:|' * len(COLUMNS)}"]
    for row in read_rows([path]):
        name = "" if row["config"] == "teacher" else row["config"]
        start = "" if row["start"] is None else f"{row['start']:g}"
        head = f"| {name} | {row['method']} | {start} | {row['scalars']['nfe']} |"
        lines.append(f"{head} {' | '.join(cells(row, COLUMNS))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
