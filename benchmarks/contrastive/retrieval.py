"""Retrieval by an exported CLIP, style by style: the tables of docs/results/contrastive.md.

    python benchmarks/contrastive/retrieval.py assets/clip_emoji --data data/emoji64 --split test --captions plain

Each style is a task of its own: its N drawings against their N captions, both ways. A candidate with the same caption
as the right one is right, too. Intervals are 95 % bootstrap over concepts, all skin tones of one taken together.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from datamodules import ImageTextDataModule
from datamodules.image_options import Splits
from fewstep.contrastive.loss import labels_of, retrieval_ranks
from fewstep.rewards.clip_scores import CLIPSimilarity, load_clip

TONES = ("-1F3FB", "-1F3FC", "-1F3FD", "-1F3FE", "-1F3FF")
FIELDS = ["captions", "scoring_captions", "concept", "style"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="+", help="open_clip folder")
    parser.add_argument("--data", default="data/emoji64")
    parser.add_argument("--split", default="test", help="train: seen concepts; test: unseen ones")
    parser.add_argument(
        "--captions",
        nargs="+",
        default=["full"],
        choices=["full", "plain", "scoring"],
        help="the first caption, the same without its style, the first scoring caption",
    )
    parser.add_argument(
        "--num", type=int, help="of each style take N drawings at random, so that tasks are equally hard"
    )
    parser.add_argument("--bootstrap", type=int, default=1000)
    options = parser.parse_args()
    samples = read(options.data, options.split)
    print("| network | data | split | style | captions | N | image to text R@1 | R@5 | text to image R@1 | R@5 |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for folder in options.folder:
        clip = load_clip(f"local-dir:{folder}", None)
        images = torch.cat([clip.embed_images(part) for part in samples["image"].split(128)])
        for style in sorted(set(samples["style"])):
            rows = [row for row, name in enumerate(samples["style"]) if name == style]
            if options.num:
                order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
                rows = [rows[i] for i in order[: options.num].tolist()]
            for kind in options.captions:
                cells = measure(clip, images[rows], {k: [samples[k][r] for r in rows] for k in FIELDS}, kind, options)
                head = [Path(folder).name, Path(options.data).name, options.split, style, kind, str(len(rows))]
                print("| " + " | ".join([*head, *cells]) + " |", flush=True)


def read(path: str, split: str) -> dict[str, Any]:
    """image [N, 3, H, W] in [-1, 1] and, as lists, the metadata of all samples that can be read."""
    data = ImageTextDataModule(path, eval_batch_size=128, metadata=FIELDS, splits=Splits(test=split), num_workers=0)
    columns: dict[str, list] = defaultdict(list)
    for batch in data.test_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        keep = batch["weight"] > 0
        columns["image"].append(batch["image"][keep])
        for name in FIELDS:
            columns[name] += [value for value, kept in zip(batch[name], keep.tolist(), strict=True) if kept]
    return {**columns, "image": torch.cat(columns["image"])}


def caption(captions: list[str], scoring: list[str], kind: str) -> str:
    if kind == "scoring":
        return scoring[0]
    without_style = (other for other in captions[1:] if captions[0].endswith(f" of {other}"))
    return captions[0] if kind == "full" else next(without_style, captions[0])


@torch.no_grad()
def measure(clip: CLIPSimilarity, images: Tensor, samples: dict[str, list], kind: str, options: Any) -> list[str]:
    """The last four cells of a row."""
    both = zip(samples["captions"], samples["scoring_captions"], strict=True)
    captions = [caption(first, second, kind) for first, second in both]
    texts = torch.cat([clip.embed_prompts(captions[i : i + 256]) for i in range(0, len(captions), 256)])
    labels = labels_of(captions)
    groups = [base_concept(code) for code in samples["concept"]]
    cells = []
    for queries, candidates in ((images, texts), (texts, images)):
        ranks = retrieval_ranks(queries, candidates, labels)
        for k in (1, 5):
            hits = (ranks < k).double()
            low, high = clustered_interval(hits, groups, options.bootstrap)
            cells.append(f"{hits.mean():.3f} [{low:.3f}, {high:.3f}]")
    return cells


def base_concept(code: str) -> str:
    for tone in TONES:
        code = code.replace(tone, "")
    return code


def clustered_interval(values: Tensor, groups: list[str], draws: int) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean of values [N], drawing whole groups."""
    names = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    place = torch.tensor([names[name] for name in groups])
    totals = torch.zeros(len(names), dtype=torch.double).index_add(0, place, values)
    counts = torch.bincount(place).double()
    drawn = torch.randint(len(names), (draws, len(names)), generator=torch.Generator().manual_seed(0))
    means = totals[drawn].sum(1) / counts[drawn].sum(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return low, high


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(__doc__)
    main()
