"""Avatars drawn by rule (DiceBear): exact attributes, and pairs that differ in one named attribute and nothing else.

A sample is KEY.webp (before), KEY.edited.webp (after) and KEY.json (captions, instruction, attributes). Synthetic:
nobody is portrayed. Drawing runs node on the packages' own code, without a network; resvg makes pixels of the SVG.
"""

import argparse
import io
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from datamodules.prepare import add_output_arguments
from datamodules.prepare.avatar_attributes import (
    STYLES,
    VERSION,
    attributes_of,
    describe,
    edited,
    instruction,
    options_of,
)  # fmt: skip
from datamodules.prepare.npm_packages import Package, located, package_files
from datamodules.prepare.webp_encoding import exact_webp

CORE = Package("@dicebear/core", VERSION)
LEAST_CHANGE = 0.005  # of the pixels
CODE_FILES = r"(package\.json|lib/(?:[A-Za-z0-9_-]+/)*[A-Za-z0-9_-]+\.js)"
SCRIPT = """
import { createInterface } from "node:readline";
const { createAvatar } = await import("@dicebear/core");
const style = await import(process.argv[1]);
for await (const line of createInterface({ input: process.stdin }))
  console.log(JSON.stringify(createAvatar(style, JSON.parse(line)).toString()));
"""
README = """# Avatars, {style}, {size} px

{num} pairs drawn by rule, no real person: KEY.webp, KEY.edited.webp (the same avatar with one attribute changed, every
other pixel equal) and KEY.json: caption, captions, edited_caption, instruction ("give the person a red hat"),
attributes, edited_attributes, changed. Lossless WebP in WebDataset shards. Of ten avatars eight are train, one val, one
test; every avatar occurs in one pair only. Sources and licences: NOTICE. Command: `{command}`
"""
NOTICE = """Drawings: {credit}; options drawn by this project.
Drawn with {package} and @dicebear/core {version} (code MIT, Copyright (c) Florian Koerner).
"""
MOST_PAIRS = 1_000_000  # as many as six digits of a key number


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_output_arguments(command)
    command.add_argument("--num", type=int, default=2000, help=f"pairs (default 2000, at most {MOST_PAIRS:,})")
    command.add_argument("--size", type=int, default=64, help="edge in pixels (default 64)")
    command.add_argument("--style", choices=tuple(STYLES), default="pixel-art")
    command.add_argument("--packages", metavar="FOLDER", help="npm packages, .tgz or unpacked; default: fetch with npm")


def run(options: argparse.Namespace) -> None:
    from datamodules.prepare.image_shard_writing import Samples, write_image_folder
    from fewstep.files.durable import write_synced

    if not 10 <= options.num <= MOST_PAIRS or not 16 <= options.size <= 1024:
        expected = f"10 to {MOST_PAIRS:,} pairs of 16 to 1024 pixels"
        raise ValueError(f"--num {options.num} --size {options.size}: expected {expected}")
    style, splits = STYLES[options.style], {"train": [], "val": [], "test": []}
    for number in range(options.num):
        splits[{8: "val", 9: "test"}.get(number % 10, "train")].append(f"avatar_{number:06d}")
    about = {
        "name": "avatars",
        "license": style.license,
        "command": options.command_line,
        "image_size": options.size,
        "notes": {"style": options.style, "seed": options.seed},
    }
    packages = located((CORE, style.package), options.packages)
    readme = README.format(style=options.style, size=options.size, num=options.num, command=options.command_line)
    with Avatars(options.style, options.packages) as drawn:

        def render(key: str) -> dict[str, bytes]:
            return pair(drawn, options.style, f"{options.seed} {key}", options.size)

        samples = {split: Samples(keys, render) for split, keys in splits.items()}
        write_image_folder(options.out, samples, about, overwrite=options.overwrite, readme=readme, sources=packages)
    notice = NOTICE.format(credit=style.credit, package=style.package.name, version=VERSION)
    write_synced(Path(options.out) / "NOTICE", notice.encode())


def pair(drawn: "Avatars", style: str, avatar: str, size: int) -> dict[str, bytes]:
    """The files of one sample."""
    before = attributes_of(style, avatar)
    source = picture(drawn.svg(options_of(style, avatar, before)), size)
    for attempt in range(20):
        changed, after = edited(style, avatar, before, attempt)
        target = picture(drawn.svg(options_of(style, avatar, after)), size)
        if visible_change(source, target):
            break
    record = {
        "caption": describe(style, before)[0],
        "captions": describe(style, before),
        "edited_caption": describe(style, after)[0],
        "instruction": instruction(changed, before[changed], after[changed]),
        "attributes": before,
        "edited_attributes": after,
        "changed": changed,
    }
    return {
        "webp": exact_webp(source),
        "edited.webp": exact_webp(target),
        "json": json.dumps(record, separators=(",", ":")).encode(),
    }


def picture(svg: str, size: int):
    """SVG to a PIL RGB picture; what is not drawn becomes white."""
    from PIL import Image

    from datamodules.prepare.svg_drawing import png_from_svg

    drawn = Image.open(io.BytesIO(png_from_svg(svg, size))).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")


def visible_change(before, after) -> bool:
    """Whether enough pixels of two PIL pictures differ; what changed may lie below hair or glasses."""
    differs = (np.asarray(before) != np.asarray(after)).any(axis=-1)
    return bool(differs.mean() >= LEAST_CHANGE)


class Avatars:
    """A running node that turns options into SVG text; a context manager, for the process and its folder."""

    def __init__(self, style: str, packages: str | None):
        self.folder = tempfile.TemporaryDirectory(prefix="avatars-")
        for package in (CORE, STYLES[style].package):
            place = Path(self.folder.name) / "node_modules" / package.name
            for name, content in package_files(package, packages, CODE_FILES).items():  # names that CODE_FILES allows
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(content)
        command = ["node", "--input-type=module", "--eval", SCRIPT, STYLES[style].package.name]
        try:
            self.node = subprocess.Popen(
                command,
                cwd=self.folder.name,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
        except FileNotFoundError as error:
            self.folder.cleanup()
            raise ValueError("node is not installed; avatars are drawn with node 18 or later") from error

    def svg(self, options: dict) -> str:
        """The avatar with these options; ValueError if node stopped, whose own words are on stderr."""
        try:
            self.node.stdin.write(json.dumps({"seed": "avatar", **options}) + "\n")
            self.node.stdin.flush()
            return json.loads(self.node.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError) as error:
            raise ValueError("node stopped while drawing avatars; is it version 18 or later?") from error

    def __enter__(self) -> "Avatars":
        return self

    def __exit__(self, *error) -> None:
        self.node.stdin.close()
        self.node.wait(timeout=60)
        self.node.stdout.close()
        self.folder.cleanup()
