"""The options of pictures that come with prompts: those that are edited, and those that a control network reads."""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fewstep.collaboration.given import PictureFiles
from fewstep.collaboration.rollback import EditStrength
from fewstep.files.pictures import read_picture
from fewstep.files.plain_reader import shown
from fewstep.files.prompt_files import Prompt
from fewstep.files.weights import file_sha256
from fewstep.picture_size import Size


class GivenFiles(NamedTuple):
    """With each prompt; None where no such pictures are needed."""

    sources: list[Path] | None = None
    controls: list[Path] | None = None

    def opened(self, size: Size) -> dict[str, Any]:
        """Pictures of this size by the names that a Cascade has for them, read when they are needed."""
        return {name: PictureFiles(files, size) for name, files in self._asdict().items() if files is not None}

    def hashes(self, num: int) -> list[dict[str, str]]:
        """Of the files of each of `num` prompts, as samples.jsonl has them: "source" and "control"."""
        kinds = {name[:-1]: files for name, files in self._asdict().items() if files is not None}
        return [{name: file_sha256(files[place]) for name, files in kinds.items()} for place in range(num)]

    def digest(self, prompts: Sequence[Prompt]) -> str:
        """A hash of prompts, what is asked beside them, and their pictures."""
        told = [[p.text, p.attributes, own] for p, own in zip(prompts, self.hashes(len(prompts)), strict=True)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def edit_strength(options: argparse.Namespace) -> EditStrength | None:
    """None where nothing is edited; ValueError in one line for one that is not inside 0 and 1."""
    if options.edit_time is not None:
        return EditStrength(options.edit_time, "time")
    return None if options.edit_variance is None else EditStrength(options.edit_variance)


def given_files(options: argparse.Namespace, prompts: Sequence[Prompt]) -> GivenFiles:
    """The pictures of every prompt, of the kinds that the options ask for.

    ValueError in one line for a prompt that lacks one or has one that nobody reads, or for what is no picture of the
    folder: said before a network is loaded.
    """
    edits, controls = edit_strength(options) is not None, options.control is not None
    if options.images is not None and not edits and not controls:
        told = "is for edits: give --edit-variance or --edit-time, or --control for pictures of that kind"
        raise ValueError(f"--images {options.images} {told}")
    if not edits:
        check_no_images(prompts)
    if not controls and (given := [prompt.key for prompt in prompts if prompt.control is not None]):
        raise ValueError(f"prompt {given[0]} has a `control`, and no network reads it: give --control, or leave it out")
    folder = options.prompts.parent if options.images is None else options.images
    return GivenFiles(
        [_file(p, "image", p.image, "which is to be edited", folder) for p in prompts] if edits else None,
        [_file(p, "control", p.control, "which --control reads", folder) for p in prompts] if controls else None,
    )


def _file(prompt: Prompt, field: str, name: str | None, what_for: str, folder: Path) -> Path:
    if name is None:
        raise ValueError(f"prompt {prompt.key} has no `{field}`, {what_for}; name its file in a .jsonl")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        told = f"prompt {prompt.key} has the {field} {shown(name)}, which leaves the folder {folder}"
        raise ValueError(f"{told}; name a file inside it, or give --images FOLDER")
    file = Path(folder, name)
    read_picture(file, 1)
    return file


def check_no_images(prompts: Sequence[Prompt]) -> None:
    """ValueError in one line where pictures are given and not edited."""
    if given := [prompt.key for prompt in prompts if prompt.image is not None]:
        raise ValueError(
            f"prompt {given[0]} has an `image`, and nothing is edited: give --edit-variance, or leave it out"
        )
