"""Sheets of edits to look at: for every kind of edit some avatars, not chosen, each with its edit and its true edit.

    python benchmarks/avatars/edit_sheets.py --export runs/icd_avatars/export --data runs/avatars64 \\
      --out docs/images/edits

Prompt switch with replay, guided as `edits.py` does; the first --each of every kind in the order of their keys.
"""

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.avatars.evaluation_set import Avatars, read_avatars
from fewstep.files.contact_sheet import Sample, contact_sheet
from fewstep.files.pictures import to_picture
from fewstep.icd.pair import Editing, InvertibleConsistency
from fewstep.rng import PerSampleRng


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", required=True)
    parser.add_argument("--data", default="data/avatars64")
    parser.add_argument("--split", default="test")
    parser.add_argument("--each", type=int, default=32)
    parser.add_argument("--scale", type=float, default=4.0, help="guidance scale")
    parser.add_argument("--guided-below", type=float, default=0.8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder for KIND.png")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pair, avatars = InvertibleConsistency.load(options.export), read_avatars(options.data, options.split)
    editing = Editing(guidance_scale=options.scale, guided_below=options.guided_below, replay=True)
    options.out.mkdir(parents=True, exist_ok=True)
    for kind in dict.fromkeys(avatars.changed):
        chosen = avatars[[row for row, word in enumerate(avatars.changed) if word == kind][: options.each]]
        rng = PerSampleRng(0, chosen.key)
        edited = pair.edit(chosen.image, chosen.caption, chosen.edited_caption, rng, editing)
        path = options.out / f"{kind}.png"
        sheet(chosen, edited).quantize(256).save(path, optimize=True)
        print(path, len(chosen))


def sheet(avatars: Avatars, edited: Tensor) -> Image.Image:
    """Each picture above its edit and its true edit, under what was asked."""
    columns = {"picture": avatars.image, "edited": edited, "true edit": avatars.edited}
    samples = []
    for row, (seen, word) in enumerate(zip(avatars.edited_attributes, avatars.changed, strict=True)):
        asked = seen[word].replace("sunglasses", "sun glasses")  # so that it can be broken in two
        samples.append(Sample(asked, {name: to_picture(images[row]) for name, images in columns.items()}))
    return contact_sheet(samples, 16, 64, lines=2)


if __name__ == "__main__":
    main()
