"""Generated images of one run by key, as PNG files with what they cost."""

import hashlib
import io
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from commands.evaluate.partial import RunFiles


class KeptImage(NamedTuple):
    pixels: np.ndarray  # uint8 [3, H, W]
    nfe: float
    seconds: float


def read_image(kept: RunFiles, key: str) -> KeptImage | None:
    """None where there is none, or a damaged one."""
    try:
        with Image.open(io.BytesIO(kept.read(_file(key)))) as picture:
            pixels = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
            return KeptImage(pixels.copy(), float(picture.text["nfe"]), float(picture.text["seconds"]))
    except (OSError, SyntaxError, ValueError, KeyError, AttributeError):
        return None


def keep_image(kept: RunFiles, key: str, image: KeptImage) -> None:
    notes, file = PngInfo(), io.BytesIO()
    notes.add_text("nfe", repr(image.nfe))
    notes.add_text("seconds", repr(image.seconds))
    Image.fromarray(image.pixels.transpose(1, 2, 0)).save(file, "png", pnginfo=notes)
    kept.write(_file(key), file.getvalue())


def _file(key: str) -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.png"  # a key may hold anything
