"""Your own captioned pictures -> shards: a folder of pictures with .txt files beside them, or with a table of captions.

Pictures that cannot be read and pictures without a caption are left out, counted and named. Each keeps its bytes
unless --size shrinks it, or its format (GIF, BMP) is not one that shards hold; transparency then becomes white.
"""

import argparse
import hashlib
import io
import json
import os
import re
from collections import Counter
from pathlib import Path, PurePosixPath

from datamodules.prepare import add_output_arguments
from datamodules.prepare.caption_table import CaptionTable
from datamodules.prepare.hashed_share import share

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
KEPT = {"jpeg": "jpg", "png": "png", "webp": "webp"}  # format: suffix in a shard
LONGEST_NAME = 120  # characters of a path that its key keeps
README = """# {name}

Made from a folder with {count} captioned pictures; index.json counts them by split, and names those left out.
WebDataset shards of KEY.jpg, .png or .webp, KEY.txt (caption) and KEY.json (`file`: where the picture was; `captions`
where it has several). Command: `{command}`
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_output_arguments(command)
    command.add_argument("--images", required=True, metavar="DIR", help="pictures, in folders of any depth")
    command.add_argument(
        "--captions", metavar="FILE", help=".csv, .tsv, .jsonl or .parquet; default: NAME.txt by NAME.jpg"
    )
    command.add_argument("--image-column", metavar="NAME", help="column with the picture's path or file name")
    command.add_argument("--caption-column", metavar="NAME", help="column with the caption, or a list of them")
    command.add_argument("--size", type=int, help="shrink the short side to this many pixels; default: keep the files")
    command.add_argument("--val-fraction", type=float, default=0.05, help="share of the pictures for validation (0.05)")
    command.add_argument("--test-fraction", type=float, default=0.05, help="share of the pictures for the test (0.05)")
    command.add_argument("--license", default="see the owner of the pictures", help="written to index.json")


def run(options: argparse.Namespace) -> None:
    from datamodules.image_shard_writing import Samples, write_image_folder

    val, test = options.val_fraction, options.test_fraction
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise ValueError(
            f"--val-fraction {val} and --test-fraction {test} must not be negative and leave some to train on"
        )
    if options.size is not None and options.size < 8:
        raise ValueError(f"--size {options.size}: expected at least 8 pixels")
    images = Path(options.images)
    found = pictures_below(images)
    captions = captions_for(images, found, options)
    if not captions:
        where = (
            f"no row of {options.captions} names one" if options.captions else "name a table of them with --captions"
        )
        raise ValueError(
            f"{images}: none of the {len(found)} pictures has a caption; put NAME.txt by NAME.jpg, or {where}"
        )
    files = keys_of(found)

    def render(key: str) -> dict[str, bytes]:
        return sample(images, files[key], captions.get(files[key]), options.size)

    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for key in files:
        where = share("folder", str(options.seed), key) if files[key] in captions else 1.0  # to be left out, from train
        splits["val" if where < val else "test" if where < val + test else "train"].append(key)
    about = {"name": Path(options.out).name, "license": options.license, "command": options.command_line}
    readme = README.format(name=about["name"], count=len(captions), command=options.command_line)
    samples = {split: Samples(keys, render) for split, keys in splits.items() if keys}
    index = write_image_folder(options.out, samples, about, overwrite=options.overwrite, readme=readme)
    for kind, note in index["notes"].get("skipped", {}).items():
        examples = ", ".join(ascii(files[key]) for key in note["keys"][:5])
        print(f"left out, {kind.replace('_', ' ')}: {note['count']}, such as {examples}")


def pictures_below(folder: Path) -> list[str]:
    """Paths of the pictures below a folder, relative to it, sorted; hidden files and folders are passed over."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; name the one with the pictures with --images")
    found, others = [], Counter()
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            suffix = Path(name).suffix.lower()
            if suffix in SUFFIXES and not name.startswith("."):
                found.append((Path(place) / name).relative_to(folder).as_posix())
            else:
                others[suffix] += 1
    if not found:
        seen = f"; it has {', '.join(suffix or 'no suffix' for suffix, _ in others.most_common(5))}" if others else ""
        raise ValueError(f"{folder}: no picture that ends in {', '.join(SUFFIXES)}{seen}")
    return sorted(found)


def captions_for(images: Path, found: list[str], options: argparse.Namespace) -> dict[str, list[str] | Path]:
    """{picture: its captions, or the .txt that holds one}; pictures without are absent."""
    if not options.captions:
        sidecars = {name: (images / name).with_suffix(".txt") for name in found}
        return {name: path for name, path in sidecars.items() if path.is_file()}
    table = CaptionTable(options.captions, options.image_column, options.caption_column)
    names = {name: names_of(name) for name in found}
    shared = Counter(other for others in names.values() for other in others)
    captions = {}
    for name, others in names.items():
        if (own := table.of([name, *(other for other in others if shared[other] == 1)])) is not None:
            captions[name] = own
    if unused := table.unused():
        print(f"{options.captions}: {len(unused)} pictures of the table are not below {images}, such as {unused[0]!r}")
    return captions


def names_of(relative: str) -> list[str]:
    """What a row may call a picture besides its path: without suffix, without folder, without both; not twice."""
    path = PurePosixPath(relative)
    return list(dict.fromkeys([str(path.with_suffix("")), path.name, path.stem]))


def keys_of(found: list[str]) -> dict[str, str]:
    """{key: path}; paths that would give the same key get a hash of the path, all of them, whatever their order."""
    names = {
        path: re.sub(r"[^A-Za-z0-9_-]", "_", str(PurePosixPath(path).with_suffix("")))[-LONGEST_NAME:] for path in found
    }
    counts = Counter(names.values())
    keys = {}
    for path, name in names.items():
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
        keys[name if counts[name] == 1 else f"{name}_{digest}"] = path
    return keys


def sample(images: Path, name: str, captions: list[str] | Path | None, size: int | None) -> dict[str, bytes]:
    """The files of one sample; BadSample if the picture cannot be read or has no caption."""
    from datamodules.bad_sample import BadSample
    from datamodules.captions import captions_of

    if captions is None:
        raise BadSample("missing_caption")
    try:
        content = (images / name).read_bytes()
        text = captions.read_bytes() if isinstance(captions, Path) else None
    except OSError as error:
        raise BadSample("unreadable", str(error)) from error
    several = None if text is not None else json.dumps({"captions": captions}).encode()
    lines, _ = captions_of(text, several)
    suffix, content = stored_picture(content, size)
    about = {"file": os.fsencode(name).decode("utf-8", "replace"), **({"captions": lines} if len(lines) > 1 else {})}
    return {suffix: content, "txt": lines[0].encode(), "json": json.dumps(about, ensure_ascii=False).encode()}


def stored_picture(content: bytes, size: int | None) -> tuple[str, bytes]:
    """(suffix, bytes) to store: the bytes as they are, or shrunk; the picture is decoded once in any case."""
    from torchvision.transforms.v2 import functional

    from datamodules.image_decoding import decode_image
    from datamodules.image_header import read_header

    pixels = decode_image(content)
    form, short = read_header(content).format, min(pixels.shape[1:])
    if form in KEPT and (size is None or short <= size):
        return KEPT[form], content
    if size is not None and short > size:
        pixels = functional.resize(pixels, [size], antialias=True)
    return encoded(pixels, form)


def encoded(pixels, form: str) -> tuple[str, bytes]:
    """(suffix, bytes) of uint8 pixels [3, H, W]: JPEG of quality 95 for what was JPEG, else PNG."""
    from PIL import Image

    picture, buffer = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()), io.BytesIO()
    if form == "jpeg":
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
        return "jpg", buffer.getvalue()
    picture.save(buffer, "PNG")
    return "png", buffer.getvalue()
