"""A sheet of drawn avatars, each above its true edit.

python benchmarks/avatars/drawings.py data/avatars64 --out docs/images/avatars/pixel_art.png
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.avatars.evaluation_set import read_avatars
from fewstep.files.contact_sheet import Sample, contact_sheet
from fewstep.pixels import to_uint8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num", type=int, default=16)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    avatars = read_avatars(options.data, options.split, options.num)
    pictures = [to_uint8(images).movedim(1, -1).numpy() for images in (avatars.image, avatars.edited)]
    samples = [
        Sample(caption, {"drawn": Image.fromarray(drawn), "edited": Image.fromarray(edited)}, f"changes: {changed}")
        for caption, changed, drawn, edited in zip(avatars.caption, avatars.changed, *pictures, strict=True)
    ]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(samples, options.columns, lines=6).save(options.out)


if __name__ == "__main__":
    main()
