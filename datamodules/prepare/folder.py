"""Your own captioned pictures -> shards: a folder of pictures with .txt files beside them, or with a table of captions.

Pictures that cannot be read and pictures without a caption are left out, counted and named, and so are other files.
Each keeps its bytes unless --size shrinks it, or its format (GIF, BMP, TIFF, AVIF, JPEG 2000; HEIC and JPEG XL with
their plugins of Pillow) is not one that shards hold: then it becomes a PNG, its first picture if there are several, and
transparency becomes white.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

from datamodules.prepare import add_output_arguments
from datamodules.prepare.caption_table import CaptionTable, captions_by_name
from datamodules.prepare.folder_captions import Captions, content_of
from datamodules.prepare.folder_listing import Listing, keys_of, pictures_below
from datamodules.prepare.hashed_share import share
from datamodules.prepare.saying import say
from datamodules.prepare.sidecars import texts_of
from fewstep.files.text_files import check_encoding
from fewstep.one_line import printable

KEPT = {"jpeg": "jpg", "png": "png", "webp": "webp"}  # format: suffix in a shard
MAX_PIXELS = 1 << 26  # as the datamodules have it
REMEDIES = {
    "too_large": "--max-pixels raises the limit for pictures",
    "not_utf8": "save the texts as UTF-8, or name their encoding with --encoding",
}
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
    command.add_argument(
        "--caption-lines",
        choices=("first", "all"),
        help="of a text with several lines, take the first, or all as captions of their own; default: one caption",
    )
    command.add_argument("--encoding", help="of the texts or the table; default: UTF-8")
    command.add_argument("--size", type=int, help="shrink the short side to this many pixels; default: keep the files")
    command.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, help=f"leave larger pictures out ({MAX_PIXELS}, of 8192 x 8192)"
    )
    command.add_argument("--val-fraction", type=float, default=0.05, help="share of the pictures for validation (0.05)")
    command.add_argument("--test-fraction", type=float, default=0.05, help="share of the pictures for the test (0.05)")
    command.add_argument("--license", default="see the owner of the pictures", help="written to index.json")


def run(options: argparse.Namespace) -> None:
    from datamodules.prepare.image_shard_writing import Samples, write_image_folder

    check_options(options)
    images = Path(options.images)
    listing = pictures_below(images, texts=not options.captions)
    captions = Captions(captions_for(images, listing, options), options.caption_lines, options.encoding)
    files = keys_of(listing.pictures)
    faults: dict[str, str] = {}  # kind: what was wrong with the first of it

    def render(key: str) -> dict[str, bytes]:
        from datamodules.bad_sample import BadSample

        try:
            return sample(images / files[key], files[key], captions, options.size, options.max_pixels)
        except BadSample as bad:
            faults.setdefault(bad.kind, bad.detail)
            raise

    splits = split_keys(files, captions, options)
    about = {"name": printable(Path(options.out).name), "license": options.license, "command": options.command_line}
    about |= {"notes": {"other_files": {printable(why): len(names) for why, names in listing.others.items()}}}
    facts = {"name": about["name"], "count": len(captions), "command": options.command_line}
    texts = {"README.md": README.format(**facts)}
    samples = {split: Samples(keys, render) for split, keys in splits.items() if keys}
    sources = [*(images / name for name in listing.pictures), *captions.files()]
    sources += [Path(options.captions)] if options.captions else []
    index = write_image_folder(options.out, samples, about, options.overwrite, texts=texts, sources=sources)
    for line in (*listing.told(), *captions.told(), *left_out(index, files, faults), *lacking(index, splits, options)):
        say(line)


def split_keys(files: dict[str, str], captions: Captions, options: argparse.Namespace) -> dict[str, list[str]]:
    """The keys of each split, by a hash; pictures that will be left out count as train."""
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    val, test = options.val_fraction, options.test_fraction
    for key, name in files.items():
        where = share("folder", str(options.seed), key) if name in captions else 1.0
        splits["val" if where < val else "test" if where < val + test else "train"].append(key)
    return splits


def left_out(index: dict, files: dict[str, str], faults: dict[str, str]) -> Iterator[str]:
    """A line for each kind of fault, with pictures that have it, what the first one's is, and a remedy."""
    for kind, note in index["notes"].get("skipped", {}).items():
        examples = ", ".join(ascii(files[key]) for key in note["keys"][:5])
        hints = "; ".join(filter(None, [faults.get(kind), REMEDIES.get(kind)]))
        yield f"left out, {kind.replace('_', ' ')}: {note['count']}, such as {examples}{hints and f' ({hints})'}"


def lacking(index: dict, splits: dict[str, list[str]], options: argparse.Namespace) -> Iterator[str]:
    """A line for each split that was asked for and is empty, and for pictures that training refuses by default."""
    for split, fraction in (("val", options.val_fraction), ("test", options.test_fraction)):
        if fraction and split not in index["splits"]:
            number = len(splits[split])
            lost = f"its {number} pictures were left out" if number else "by chance no picture fell there"
            yield f"no split {split}: {lost}; raise --{split}-fraction {fraction} or change --seed {options.seed}"
    if options.max_pixels > MAX_PIXELS and options.size is None:
        allowed = f"--data.transform.max_pixels {options.max_pixels}"
        yield f"training reads pictures of more than {MAX_PIXELS} pixels with {allowed}"


def check_options(options: argparse.Namespace) -> None:
    val, test = options.val_fraction, options.test_fraction
    if not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
        raise ValueError(
            f"--val-fraction {val} and --test-fraction {test} must not be negative and leave some to train on"
        )
    if options.size is not None and options.size < 8:
        raise ValueError(f"--size {options.size}: expected at least 8 pixels")
    if options.max_pixels < 1:
        raise ValueError(f"--max-pixels {options.max_pixels}: expected at least 1")
    check_encoding(options.encoding, "--encoding")


def captions_for(images: Path, listing: Listing, options: argparse.Namespace) -> dict[str, list[str] | Path]:
    """{picture: its captions, or the .txt that holds one}, at least one; pictures without are absent."""
    captions: dict[str, list[str] | Path] = {}
    found = listing.pictures
    if not options.captions:
        captions |= {name: images / text for name, text in texts_of(found, listing.texts).items()}
    else:
        table = CaptionTable(options.captions, options.image_column, options.caption_column, options.encoding)
        captions |= captions_by_name(table, found)
        for line in table.told(images):
            say(line)
    if not captions:
        why = f"no row of {options.captions} names one" if options.captions else "name a table of them with --captions"
        raise ValueError(
            f"{images}: none of the {len(found)} pictures has a caption; put NAME.txt by NAME.jpg, or {why}"
        )
    return captions


def sample(path: Path, name: str, captions: Captions, size: int | None, max_pixels: int) -> dict[str, bytes]:
    """The files of one sample; BadSample if the picture cannot be read or has no caption."""
    lines = captions.of(name)
    suffix, content = stored_picture(content_of(path), size, max_pixels)
    about = {"file": os.fsencode(name).decode("utf-8", "replace"), **({"captions": lines} if len(lines) > 1 else {})}
    return {suffix: content, "txt": lines[0].encode(), "json": json.dumps(about, ensure_ascii=False).encode()}


def stored_picture(content: bytes, size: int | None, max_pixels: int = MAX_PIXELS) -> tuple[str, bytes]:
    """(suffix, bytes) to store: the bytes as they are, or shrunk; the picture is decoded once in any case."""
    from torchvision.transforms.v2 import functional

    from datamodules.image_decoding import decode_image
    from datamodules.image_header import read_header
    from datamodules.prepare.picture_formats import as_png, held

    foreign = bool(content) and not held(content)
    content = as_png(content, max_pixels) if foreign else content
    pixels = decode_image(content, max_pixels=max_pixels)
    form, short = "foreign" if foreign else read_header(content).format, min(pixels.shape[1:])
    if form in KEPT and (size is None or short <= size):
        return KEPT[form], content
    if size is not None and short > size:
        pixels = functional.resize(pixels, [size], antialias=True)
    return encoded(pixels, form)


def encoded(pixels, form: str) -> tuple[str, bytes]:
    """(suffix, bytes) of uint8 pixels [3, H, W]: JPEG of quality 95 for what was JPEG, else PNG."""
    import io

    from PIL import Image

    picture, buffer = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()), io.BytesIO()
    if form == "jpeg":
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
        return "jpg", buffer.getvalue()
    picture.save(buffer, "PNG")
    return "png", buffer.getvalue()
