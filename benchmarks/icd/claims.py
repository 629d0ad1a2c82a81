"""Measures the claims of iCD on trained students: inversion, generation, editing, against the teacher and baselines.

    python benchmarks/icd/claims.py --export G=runs/icd_0/export --export G=runs/icd_1/export \\
        --export C=runs/icd_c/export --data data/emoji64 --split test --num 128 --out results/icd.jsonl
    python benchmarks/icd/table.py results/icd.jsonl
    python benchmarks/icd/pictures.py --export runs/icd_0/export --results results/icd.jsonl --out docs/results/icd

NAME of an export is its configuration in Table 2 of the paper: A, B, C (2, 3, 4 segments without preservation), E
(forward preservation alone for the encoder), F (C and forward preservation), G (and reverse preservation), G3 (G with 3
segments); G+ is G with reverse_from "encoded". A name that comes again is another seed. H to K of the table are C, C, F
and G, guided; every export is measured unguided, guided, and guided below t = 0.8 and 0.7. All share one teacher.

One line of JSON for each method; what is in the file is not measured again, so it can be stopped and started again.
About 12 CPU minutes with N = 128, of which the chains of 50 steps take most; they are needed once for all exports.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.icd.bench import load_pair, make_bench, teacher_of
from benchmarks.icd.edits import ends_of_the_scale, student_edits, teacher_edits
from benchmarks.icd.evaluation_set import read_pictures
from benchmarks.icd.generations import Generations
from benchmarks.icd.inversions import guided_encodings, student_inversions, teacher_inversions

PARTS = ("inversion", "codes", "generation", "editing")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", action="append", required=True, metavar="[NAME=]FOLDER", help="G if not named")
    parser.add_argument("--data", default="data/emoji64")
    parser.add_argument("--split", default="test", help="to reconstruct and to edit")
    parser.add_argument("--num", type=int, default=128, metavar="N", help="pictures, each of another concept")
    parser.add_argument("--num-edits", type=int, default=64, help="of these pictures")
    parser.add_argument("--prompt-split", default="train", help="to generate from; concepts that the scorer knows")
    parser.add_argument("--num-generated", type=int, default=128)
    parser.add_argument("--guidance-scale", type=float, default=8.0)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--scorer", default="assets/clip_emoji_scorer", help="open_clip folder")
    parser.add_argument("--feature-size", type=int, default=64, help="pixels that MobileNetV2 sees")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/icd.jsonl"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        measure(options)
    except ValueError as error:
        parser.error(str(error))


def measure(options: argparse.Namespace) -> None:
    exports = [named(text) for text in options.export]
    check_one_teacher([folder for _, folder in exports])
    bench = make_bench(
        exports[0][1],
        options.data,
        options.split,
        options.num,
        options.out,
        options.scorer,
        options.guidance_scale,
        options.feature_size,
        options.seed,
        options.device,
        options.batch,
    )
    generations = None
    if "generation" in options.parts:
        prompts = bench.pair.model.prompts
        size = bench.pair.model.image_size
        every = read_pictures(options.data, options.prompt_split, prompts.tokenizer, prompts.length, size)
        generations = Generations(bench, every, options.num_generated, options.prompt_split)
    pairs = [(name, folder, load_pair(folder, options.device)) for name, folder in exports]
    for name, folder, pair in pairs:  # the students first: theirs are the short chains
        if "inversion" in options.parts:
            student_inversions(bench, name, folder, pair)
        if generations is not None:
            generations.of_students(name, folder, pair)
        if "editing" in options.parts:
            student_edits(bench.first(options.num_edits), name, folder, pair)
    if "inversion" in options.parts:
        teacher_inversions(bench, [pair.boundaries for _, _, pair in pairs])
    if "codes" in options.parts:
        guided_encodings(bench)
    if generations is not None:
        generations.of_teacher()
    if "editing" in options.parts:
        ends_of_the_scale(bench.first(options.num_edits))
        teacher_edits(bench.first(options.num_edits))


def named(text: str) -> tuple[str, str]:
    name, separator, folder = text.rpartition("=")
    return (name, folder) if separator else ("G", text)


def check_one_teacher(folders: list[str]) -> None:
    teachers = [teacher_of(folder) for folder in folders]
    for folder, teacher in zip(folders, teachers, strict=True):
        if teacher != teachers[0]:
            raise ValueError(f"{folder} has teacher {teacher}, {folders[0]} {teachers[0]}; measure them one by one")


if __name__ == "__main__":
    main()
