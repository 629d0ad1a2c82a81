"""A folder in the layout of PIE-Bench with a few small pictures."""

import json

import numpy as np
from PIL import Image

from tests.tiny_diffusion import CAPTIONS

SIDE = 16


def write_pie_bench(folder, num=5, side=SIDE, **changes):
    """changes: {number: {field: value}}, None for a field that is to be lacking."""
    entries = {}
    for number in range(num):
        place = f"1_change_object_80/{number:012d}.png"
        rng = np.random.default_rng(number)
        pixels = (rng.random((1, 1, 3)) * 120 + rng.random((side, side, 3)) * 120).astype(np.uint8)
        file = folder / "annotation_images" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
        source, target = CAPTIONS[number % 4], CAPTIONS[(number + 1) % 4]
        words = source.split()[1], target.split()[1]
        entry = {
            "image_path": place,
            "original_prompt": source,
            "editing_prompt": target.replace(words[1], f"[{words[1]}]"),
            "editing_instruction": f"make it {words[1]}",
            "editing_type_id": "1",
            "blended_word": " ".join(words),
            "mask": [side * 4 + 3, 6, side * 5 + 3, 6 + number],
        }
        entry |= changes.get(f"n{number}", {})
        entries[f"{number:012d}"] = {name: value for name, value in entry.items() if value is not None}
    (folder / "mapping_file.json").write_text(json.dumps(entries))
    return folder
