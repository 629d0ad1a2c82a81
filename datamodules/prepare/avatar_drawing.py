"""Avatars as pixels: node runs the packages' own code, without a network, and resvg makes pixels of the SVG."""

import io
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from datamodules.prepare.avatar_attributes import Attributes, may_be_hidden, options_of
from datamodules.prepare.avatar_styles import STYLES, VERSION
from datamodules.prepare.npm_packages import Package, package_files

CORE = Package("@dicebear/core", VERSION)
LEAST_CHANGE = 0.005  # of the pixels, that an edit must change
LEAST_SEEN = 1 / 64  # of the pixels, that must tell an attribute's values apart where something may cover it
CODE_FILES = r"(package\.json|lib/(?:[A-Za-z0-9_-]+/)*[A-Za-z0-9_-]+\.js)"
SCRIPT = """
import { createInterface } from "node:readline";
const { createAvatar } = await import("@dicebear/core");
const style = await import(process.argv[1]);
for await (const line of createInterface({ input: process.stdin }))
  console.log(JSON.stringify(createAvatar(style, JSON.parse(line)).toString()));
"""


class Avatars:
    """A running node that turns options into SVG text; a context manager, for the process and its folder.

    packages: a folder with the npm packages; None fetches them.
    """

    def __init__(self, style: str, packages: str | None):
        self.style = style
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

    def picture(self, avatar: str, attributes: Attributes, size: int) -> np.ndarray:
        """uint8 [size, size, 3] of the avatar of this name with these attributes."""
        return pixels(self.svg(options_of(self.style, avatar, attributes)), size)

    def covered(self, avatar: str, attributes: Attributes, shown: np.ndarray) -> list[str]:
        """Attributes that cannot be seen: with another value hardly a pixel of the picture `shown` would be another."""
        hidden: list[str] = []
        for name in may_be_hidden(attributes):
            other = next(value for value in STYLES[self.style].attributes[name] if value != attributes[name])
            if changed(shown, self.picture(avatar, {**attributes, name: other}, len(shown))) < LEAST_SEEN:
                hidden.append(name)
        return hidden

    def __enter__(self) -> "Avatars":
        return self

    def __exit__(self, *error) -> None:
        self.node.stdin.close()
        self.node.wait(timeout=60)
        self.node.stdout.close()
        self.folder.cleanup()


def pixels(svg: str, size: int) -> np.ndarray:
    """SVG to uint8 [size, size, 3]; what is not drawn becomes white."""
    from PIL import Image

    from datamodules.prepare.svg_drawing import png_from_svg

    drawn = Image.open(io.BytesIO(png_from_svg(svg, size))).convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB"))


def changed(before: np.ndarray, after: np.ndarray) -> float:
    """Share of the pixels of two pictures [H, W, 3] that differ."""
    return float((before != after).any(axis=-1).mean())
