"""Emoji drawn by several vendors: captioned pictures, and the same concept in several styles and skin tones.

Noto (Apache-2.0), Twemoji (CC-BY-4.0), Fluent 3D (MIT) and, only when asked for, OpenMoji (CC-BY-SA-4.0), with names
and tags from emojibase (MIT). Only concepts that every chosen style draws are kept, so that each has all styles.
"""

import argparse
import io
import re

from datamodules.prepare import add_output_arguments
from datamodules.prepare.emoji_sources import EMOJIBASE, SOURCES, notice
from datamodules.prepare.emoji_table import STYLES, Emoji, embedded, emoji_table, metadata, plain_code, split_of
from datamodules.prepare.npm_packages import located, package_files

LARGEST = {"noto": 64, "twemoji": 64, "fluent": 256}  # pixels in the packages
MEASURED = 240  # pictures on which the fidelity of compact files is stated
README = """# Emoji, {size} px, {styles}

{count} drawings of {concepts} concepts (skin tones counted apart), each in every style: WebDataset shards of KEY.webp
and KEY.json; KEY is CODE_STYLE. Command: `{command}`
Subset {subset}. The `embedded` one leaves out flags, keycaps and letter buttons, families and couples by gender, and
man or woman variants of roles and activities; of skin tones it has the five of hands and body parts.
Background {background}. Files: {fidelity}

json: `captions` (the plain full one first) to train with; `scoring_captions` in other wording, for a scoring network
that must not see the templates of the generator it judges; concept, style, group, subgroup, skin_tone, tags.

Shards are split by concept: all styles, skin tones and gender variants of a concept lie in one of train (80 %), val
(8 %), test (12 %), by a hash. `edit_split` is a second split, for editing and translation, within the train shards:
for some concepts one style or one skin tone is "val" or "test" (`held_out` says which: "style" or "skin_tone"), and the
rest is "train". So a model trained on edit_split "train" can be asked for a known concept in an unseen style or tone,
and the drawing itself is the ground truth. In the val and test shards all is held out (`held_out`: "concept").
Drawings of one concept agree in meaning and, between skin tones, in outline; between styles pose and layout differ.

Sources and licences: NOTICE.
"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_output_arguments(command)
    command.add_argument("--size", type=int, default=64, help="edge in pixels (default 64; Noto has no more)")
    command.add_argument("--styles", nargs="+", choices=STYLES, default=list(STYLES[:3]), metavar="STYLE")
    command.add_argument("--subset", choices=("all", "embedded"), default="all", help="embedded: what ships")
    command.add_argument("--background", default="ffffff", metavar="RRGGBB|keep", help="keep: transparent, lossless")
    command.add_argument("--encoding", choices=("lossless", "compact"), default="lossless")
    command.add_argument("--packages", metavar="FOLDER", help="npm packages, .tgz or unpacked; default: fetch with npm")


def run(options: argparse.Namespace) -> None:
    from datamodules.prepare.image_shard_writing import Samples, write_image_folder

    styles = [style for style in STYLES if style in options.styles]
    background = checked(options, styles)
    pictures, table = load(styles, options.packages)
    chosen = {emoji.concept: emoji for emoji in table if options.subset == "all" or embedded(emoji)}
    keys = {"train": [], "val": [], "test": []}
    for concept in sorted(chosen):
        keys[split_of(concept)] += [f"{concept}_{style}" for style in styles]
    encode = encoder(options.encoding)

    def render(key: str) -> dict[str, bytes]:
        concept, style = key.split("_")
        picture = draw(pictures[style][concept], style, options.size, background)
        return {"webp": encode(picture), "json": metadata(chosen[concept], style)}

    def fidelity(style: str) -> dict:
        every = sorted(chosen)[:: max(1, len(styles) * len(chosen) // MEASURED)]
        return psnr_summary([draw(pictures[style][code], style, options.size, background) for code in every], encode)

    compact = options.encoding == "compact"
    psnr = {style: fidelity(style) for style in styles} if compact else {}
    about = {
        "name": "emoji",
        "license": " AND ".join(SOURCES[style][2] for style in styles),
        "command": options.command_line,
        "image_size": options.size,
        "notes": {"styles": styles, "subset": options.subset, "background": options.background, "psnr_db": psnr},
    }
    lines = [f"{s} {p['median']} dB (lowest {p['lowest']}, {p['exact']:.0%} exact)" for s, p in psnr.items()]
    readme = README.format(
        size=options.size, styles=", ".join(styles), count=len(chosen) * len(styles), concepts=len(chosen),
        command=options.command_line, subset=options.subset, background=options.background,
        fidelity=f"WebP; median PSNR on a sample: {', '.join(lines)}." if compact else "lossless WebP.",
    )  # fmt: skip
    packages = located((EMOJIBASE, *(SOURCES[style][0] for style in styles)), options.packages)
    splits = {split: Samples(names, render) for split, names in keys.items() if names}
    change = f"{options.size} x {options.size} pixels, background {options.background}, {options.encoding} WebP"
    texts = {"README.md": readme, "NOTICE": notice(styles, change)}
    write_image_folder(options.out, splits, about, overwrite=options.overwrite, texts=texts, sources=packages)


def checked(options: argparse.Namespace, styles: list[str]) -> tuple[int, int, int] | None:
    """The background as RGB, None to keep transparency; ValueError for options that cannot be met."""
    for style in styles:
        if not 8 <= options.size <= LARGEST.get(style, 1024):
            raise ValueError(f"--size {options.size}: {style} can be drawn at 8 to {LARGEST.get(style, 1024)} pixels")
    if options.background == "keep":
        if options.encoding == "compact":
            raise ValueError("--encoding compact has no transparency; name a --background colour, or use lossless")
        return None
    if not re.fullmatch("[0-9a-fA-F]{6}", options.background):
        raise ValueError(f"--background {options.background!r}: expected six hex digits such as ffffff, or keep")
    return tuple(bytes.fromhex(options.background))


def load(styles: list[str], folder: str | None) -> tuple[dict[str, dict[str, bytes]], list[Emoji]]:
    """{style: {concept: picture file}} and the emoji that all these styles have."""
    text = package_files(EMOJIBASE, folder, r"(en/data|meta/groups)\.json")
    if len(text) < 2:
        raise ValueError(f"{EMOJIBASE.name} {EMOJIBASE.version} lacks en/data.json or meta/groups.json; fetch it again")
    table = emoji_table(text["en/data"], text["meta/groups"])
    pictures = {}
    for style in styles:
        package, pattern = SOURCES[style][:2]
        files = package_files(package, folder, pattern)
        pictures[style] = {plain_code(code): content for code, content in files.items()}
    table = [emoji for emoji in table if all(emoji.concept in drawn for drawn in pictures.values())]
    if not table:
        raise ValueError(f"no emoji is drawn by all of {', '.join(styles)}; are the packages complete?")
    return pictures, table


def draw(content: bytes, style: str, size: int, background: tuple[int, int, int] | None):
    """A PIL picture of size x size: RGB over `background`, or RGBA if that is None. Pillow resizes premultiplied."""
    from PIL import Image

    from datamodules.bad_sample import BadSample

    if style == "openmoji":
        from datamodules.prepare.svg_drawing import png_from_svg

        content = png_from_svg(content.decode(), size)
    try:
        picture = Image.open(io.BytesIO(content), formats=("PNG", "WEBP"))
        if picture.width * picture.height > 1 << 22:
            raise BadSample("too_large", f"{picture.width} x {picture.height} pixels")
        picture = picture.convert("RGBA")
    except (OSError, SyntaxError) as error:
        raise BadSample("not_an_image", str(error)) from error
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    if background is None:
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, (*background, 255)), picture).convert("RGB")


def encoder(encoding: str):
    from datamodules.prepare.webp_encoding import compact_webp, exact_webp

    return compact_webp if encoding == "compact" else exact_webp


def psnr_summary(originals: list, encode) -> dict[str, float]:
    """Median and lowest PSNR in dB of encoded PIL pictures, and the share of exact ones (infinite, 99 here)."""
    import numpy as np

    from datamodules.prepare.webp_encoding import psnr

    values = np.array([min(psnr(encode(original), original), 99.0) for original in originals])
    return {
        "median": round(float(np.median(values)), 1),
        "lowest": round(float(values.min()), 1),
        "exact": round(float((values == 99.0).mean()), 3),
    }
