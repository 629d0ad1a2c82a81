"""Edits with a ground truth (C11): a drawing and its caption -> the caption of another style of the same concept.

Preservation is nearness to the source and to the other style's own drawing; strength is what the held-out scorer makes
of it: its cosine to the target's caption, that less the cosine to the source's (margin), and how often the target's
style fits better than the other styles of the concept (style_accuracy).
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.icd.bench import Bench, fine_times
from benchmarks.icd.chains import Chains
from benchmarks.icd.inversions import chain_name
from benchmarks.icd.results import Row, timed
from fewstep.diffusion.guidance import DynamicGuidance
from fewstep.editors.null_prompt import null_prompt, with_null
from fewstep.icd.pair import Editing, InvertibleConsistency
from fewstep.rng import PerSampleRng

GUIDED_BELOW = 0.8
BACKENDS = {  # of iCD
    "prompt switch": Editing(guided_below=GUIDED_BELOW),
    "late prompt switch": Editing(guided_below=GUIDED_BELOW, prompt_below=GUIDED_BELOW),
    "prompt switch, replay": Editing(guided_below=GUIDED_BELOW, replay=True),
    "prompt-to-prompt": Editing("prompt_to_prompt", guided_below=GUIDED_BELOW),
    "prompt-to-prompt, replay": Editing("prompt_to_prompt", guided_below=GUIDED_BELOW, replay=True),
}


def scales_of(bench: Bench) -> list[float]:
    """Three of the scales that were trained: 1, a middle one and the greatest up to that of the other parts."""
    known = sorted(scale for scale in bench.pair.guidance_scales if scale <= bench.scale)
    return sorted({known[0], known[len(known) // 2], known[-1]})


def ends_of_the_scale(bench: Bench) -> None:
    """What no edit at all and what the other style's own drawing get, both through the autoencoder."""
    add(bench, bench.row("editing", "no edit"), bench.floor, 0, 0.0)
    row = bench.row("editing", "ground truth")
    if bench.results.lacks(row):
        latents = bench.pair.model.latents
        truth = torch.cat([latents.encode(part) for part in bench.targets.image.to(bench.device).split(bench.batch)])
        add(bench, row, bench.images(truth), 0, 0.0)


def teacher_edits(bench: Bench) -> None:
    """Prompt switch after DDIM inversion, in 50 and in few steps; null-prompt inversion of the undistilled teacher."""
    ends, first = bench.pair.boundaries, bench.pair.boundaries.start
    target = bench.prompts(bench.targets.caption)
    grids = {f"DDIM {chain_name(ends)}": (ends.encode_times, ends.decode_times)}
    grids["DDIM 50+50"] = (fine_times(first), fine_times(0)[::-1])
    for method, (up, down) in grids.items():
        for scale in scales_of(bench):
            row = bench.row("editing", method, f"w={scale:g}, t<={GUIDED_BELOW}", start=first)
            if bench.results.lacks(row):
                code, spent = bench.chains.encode(bench.data, bench.noise, up, bench.condition)
                guidance = DynamicGuidance(scale, GUIDED_BELOW)
                found, more = bench.chains.decode(code, down, target, guidance, key=("edit", up))
                add(bench, row, bench.images(found), len(up) + len(down) - 2, spent + more)
    if bench.original is None or bench.plain is None:
        return
    null = Chains(null_prompt(bench.original), bench.plain.parametrization, bench.batch)
    for scale in scales_of(bench):
        row = bench.row("editing", "NPI 50+50", f"w={scale:g}", start=first)
        if bench.results.lacks(row) and scale > 1:
            code, spent = bench.plain.encode(bench.data, bench.noise, up, bench.condition)
            guidance = DynamicGuidance(scale)
            found, more = null.decode(code, down, with_null(target, bench.condition), guidance)
            add(bench, row, bench.images(found), len(up) + 2 * len(down) - 3, spent + more)


def student_edits(bench: Bench, config: str, export: str, pair: InvertibleConsistency) -> None:
    """Every back-end at every scale, by the public `edit`; seconds with the autoencoder here."""
    ends, images = pair.boundaries, bench.pictures.image.to(bench.device)
    calls = len(ends.encode_times) + len(ends.decode_times) - 2
    for backend, editing in BACKENDS.items():
        for scale in scales_of(bench):
            row = bench.row("editing", f"iCD {backend}", f"w={scale:g}, t<={GUIDED_BELOW}", config, export, ends.start)
            if bench.results.lacks(row):
                chosen = replace(editing, guidance_scale=scale)
                edited, spent = timed(partial(_edit, bench, pair, images, chosen), bench.device)
                paired = editing.replay or editing.backend == "prompt_to_prompt"
                add(bench, row, edited, calls + (len(ends.decode_times) - 1) * paired, spent)


def _edit(bench: Bench, pair: InvertibleConsistency, images: Tensor, editing: Editing) -> Tensor:
    parts = []
    for start in range(0, len(images), bench.batch):
        rows = slice(start, start + bench.batch)
        rng = PerSampleRng(bench.seed, bench.pictures.key[rows], bench.device)
        captions = bench.pictures.caption[rows], bench.targets.caption[rows]
        parts.append(pair.edit(images[rows], *captions, rng, editing))
    return torch.cat(parts)


def add(bench: Bench, row: Row, images: Tensor, calls: int, seconds: float) -> None:
    """Measure edited pictures [N, 3, H, W]. calls: of the network with a row for each picture."""
    if not bench.results.lacks(row):
        return
    values = {}
    for name, pictures in (("source", bench.pictures), ("target", bench.targets)):
        nearness = bench.judge.nearness(images, pictures.image.to(images.device))
        values |= {f"{measure}_to_{name}": nearness[measure] for measure in ("psnr", "lpips")}
    values |= strength(bench, images)
    bench.results.add(row, values, nfe=calls, seconds=round(seconds / len(images), 5))


def strength(bench: Bench, images: Tensor) -> dict[str, Tensor]:
    """alignment, margin and style_accuracy, each [N]."""
    wanted, before = (
        bench.judge.alignment(images, pictures.scoring_caption) for pictures in (bench.targets, bench.pictures)
    )
    words = {(concept, style): text for concept, style, text in _captions(bench)}
    best = torch.full_like(wanted, -1)
    for style in sorted(set(bench.every.style)):
        captions = [words.get((concept, style), "") for concept in bench.targets.concept]
        other = torch.tensor([style != target for target in bench.targets.style])
        best = torch.where(other, torch.maximum(best, bench.judge.alignment(images, captions)), best)
    return {"alignment": wanted, "margin": wanted - before, "style_accuracy": (wanted > best).float()}


def _captions(bench: Bench) -> list[tuple[str, str, str]]:
    return list(zip(bench.every.concept, bench.every.style, bench.every.scoring_caption, strict=True))
