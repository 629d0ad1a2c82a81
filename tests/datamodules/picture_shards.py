"""Small captioned shards for the tests: picture i has colour i, so that a batch tells which samples it holds."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, size: int = 8, suffix: str = "png") -> bytes:
    """A plain square whose red and green hold the number."""
    pixels = np.full((size, size, 3), 100, dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = number % 256, number // 256
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, {"jpg": "JPEG"}.get(suffix, suffix.upper()))
    return content.getvalue()


def sample(number: int, **fields: bytes | None) -> dict[str, bytes]:
    """Members of sample `number`; keyword arguments replace or, being None, remove one."""
    metadata = {"number": number, "parity": "odd" if number % 2 else "even"}
    members = {"png": picture(number), "txt": f"picture {number}".encode(), "json": json.dumps(metadata).encode()}
    return {name.replace("_", "."): content for name, content in (members | fields).items() if content is not None}


def write_tar(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples.items():
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def write_folder(folder: Path, sizes: list[int], split: str = "train", first: int = 0, bad: dict | None = None) -> Path:
    """One shard per size; keys are the numbers from `first`; `bad` {number: fields} changes samples."""
    for shard, size in enumerate(sizes):
        numbers = range(first, first + size)
        samples = {f"{number:05d}": sample(number, **(bad or {}).get(number, {})) for number in numbers}
        write_tar(folder / f"{split}-{shard:06d}.tar", samples)
        first += size
    return folder


def numbers_of(batch: dict) -> list[int]:
    """The numbers that the pictures (not the keys) show; uint8 batches."""
    return (batch["image"][:, 0, 0, 0].int() + 256 * batch["image"][:, 1, 0, 0].int()).tolist()
