"""Grids of reconstructions, edits and drawings of prompts, and the plot of preservation against strength of edits.

python benchmarks/icd/pictures.py --export runs/icd_0/export --results results/icd.jsonl --out docs/results/icd
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.icd.bench import Bench, fine_times, make_bench
from benchmarks.icd.chains import Chains
from benchmarks.icd.edits import BACKENDS, GUIDED_BELOW
from benchmarks.icd.inversions import chain_name
from benchmarks.icd.results import Row, read_rows
from fewstep.diffusion.guidance import DynamicGuidance, GuidanceSchedule
from fewstep.rng import PerSampleRng

Columns = dict[str, Tensor]  # title -> pictures [N, 3, H, W] in [-1, 1]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", required=True)
    parser.add_argument("--results", type=Path, nargs="+", help="of claims.py, for the plot")
    parser.add_argument("--config", default="G", help="whose edits are plotted, by the name in the results")
    parser.add_argument("--data", default="data/emoji64")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num", type=int, default=8)
    parser.add_argument("--guidance-scale", type=float, default=8.0)
    parser.add_argument("--scorer", default="assets/clip_emoji_scorer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("docs/results/icd"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:  # no rows are written
        bench = make_bench(
            options.export, options.data, options.split, options.num, Path(folder, "none.jsonl"), options.scorer,
            options.guidance_scale, seed=options.seed, device=options.device,
        )  # fmt: skip
    grid(reconstructions(bench), bench.pictures.caption, options.out / "reconstructions.png")
    ways = [f"{a} → {b}" for a, b in zip(bench.pictures.caption, bench.targets.style, strict=True)]
    grid(edits(bench), ways, options.out / "edits.png")
    grid(generated(bench), bench.pictures.caption, options.out / "generated.png")
    if options.results:
        shown = ("teacher", options.config)
        rows = [row for row in read_rows(options.results) if row["part"] == "editing" and row["config"] in shown]
        pareto(rows, options.out / "editing.png")


def reconstructions(bench: Bench) -> Columns:
    ends, names = bench.pair.boundaries, bench.guidances
    models = bench.pair.model.parametrization, bench.batch
    columns = {"drawing": bench.pictures.image, "autoencoder": bench.floor}
    constant = f"w={bench.scale:g}"

    def add(title: str, chains: Chains, up: tuple[float, ...], down: tuple[float, ...], chosen: list[str]) -> None:
        code, _ = chains.encode(bench.data, bench.noise, up, bench.condition)
        for name in chosen:
            found, _ = chains.decode(code, down, bench.condition, names[name], key=up)
            columns[f"{title}\n{name}"] = bench.images(found)

    teacher = bench.chains
    add(f"DDIM {chain_name(ends)}", teacher, ends.encode_times, ends.decode_times, ["w=1"])
    add("DDIM 50+50", teacher, fine_times(ends.start), fine_times(0)[::-1], ["w=1", constant])
    students = Chains(bench.pair.forward, *models, bench.pair.reverse)
    add(f"iCD {chain_name(ends)}", students, ends.encode_times, ends.decode_times, list(names))
    return columns


def edits(bench: Bench) -> Columns:
    ends = bench.pair.boundaries
    target, guidance = bench.prompts(bench.targets.caption), DynamicGuidance(bench.scale, GUIDED_BELOW)
    columns = {"source": bench.pictures.image}
    code, _ = bench.chains.encode(bench.data, bench.noise, fine_times(ends.start), bench.condition)
    found, _ = bench.chains.decode(code, fine_times(0)[::-1], target, guidance, key="edit")
    columns["DDIM 50+50"] = bench.images(found)
    captions = bench.pictures.caption, bench.targets.caption
    for name, editing in BACKENDS.items():
        rng = PerSampleRng(bench.seed, bench.pictures.key, bench.device)
        chosen = replace(editing, guidance_scale=bench.scale)
        columns[name.replace(", ", "\n")] = bench.pair.edit(
            bench.pictures.image.to(bench.device), *captions, rng, chosen
        )
    return columns | {"target": bench.targets.image}


def generated(bench: Bench) -> Columns:
    models, ends = (bench.pair.model.parametrization, bench.batch), bench.pair.boundaries

    def draw(chains: Chains, times: tuple[float, ...], guidance: GuidanceSchedule) -> Tensor:
        return bench.images(chains.decode(bench.noise, times, bench.condition, guidance, key="noise")[0])

    student = Chains(bench.pair.reverse, *models)
    columns = {"drawing": bench.pictures.image}
    for name, guidance in list(bench.guidances.items())[:2]:
        columns[f"DDIM 50\n{name}"] = draw(bench.chains, fine_times(0)[::-1], guidance)
    for name, guidance in bench.guidances.items():
        columns[f"iCD {len(ends.decode_times) - 1}\n{name}"] = draw(student, ends.decode_times, guidance)
    return columns


def grid(columns: Columns, captions: list[str], path: Path) -> None:
    """A row for each picture, its caption on the left."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        len(captions), len(columns), figsize=(1.15 * len(columns) + 2.2, 1.15 * len(captions) + 0.5), squeeze=False
    )
    for place, (title, images) in enumerate(columns.items()):
        for row, image in enumerate(images.cpu()):
            axis = axes[row][place]
            axis.imshow(image.add(1).div(2).clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if row == 0:
                axis.set_title(title, fontsize=7)
            if place == 0:
                axis.set_ylabel(_wrapped(captions[row]), fontsize=7, rotation=0, ha="right", va="center")
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    print(path)


def pareto(rows: list[Row], path: Path) -> None:
    """One line for each method, its points the guidance scales; up and to the right is better."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4.6))
    names = {
        ("alignment", "psnr_to_source"): "PSNR to the source, dB",
        ("margin", "psnr_to_source"): "PSNR to the source, dB",
        ("margin", "lpips_to_target"): "-LPIPS to the target",
    }
    meanings = {
        "alignment": "the scorer's alignment with the target's caption",
        "margin": "the same less that with the source's",
    }
    for axis, ((across, up), label) in zip(axes, names.items(), strict=True):
        lines: dict[str, dict[str, list[Row]]] = {}
        for row in rows:
            lines.setdefault(row["method"], {}).setdefault(row["guidance"] or "", []).append(row)
        for number, (title, points) in enumerate(lines.items()):
            means = [
                [sum(row["scalars"][name] for row in group) / len(group) for name in (across, up)]
                for group in points.values()
            ]
            x, y = zip(*sorted(means), strict=True)
            y = [-value for value in y] if label.startswith("-") else y
            alone = {"no edit": "X", "ground truth": "*"}.get(title)
            style = {"linestyle": "-" if title.startswith("iCD") else "--", "color": f"C{number % 10}"}
            axis.plot(x, y, marker=alone or "o", markersize=9 if alone else 5, label=title, **style)
        axis.set_xlabel(meanings[across])
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    print(path)


def _wrapped(caption: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(caption, 22))


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    return pyplot


if __name__ == "__main__":
    main()
