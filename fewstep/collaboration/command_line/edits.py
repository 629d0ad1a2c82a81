"""The options of edits: how far pictures are taken back, and which pictures these are."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fewstep.collaboration.given import PictureFiles
from fewstep.collaboration.rollback import EditStrength
from fewstep.files.pictures import read_picture
from fewstep.files.plain_reader import shown
from fewstep.files.prompt_files import Prompt
from fewstep.picture_size import Size


def edit_strength(options: argparse.Namespace) -> EditStrength | None:
    """None where nothing is edited; ValueError in one line for one that is not inside 0 and 1."""
    if options.edit_time is not None:
        return EditStrength(options.edit_time, "time")
    return None if options.edit_variance is None else EditStrength(options.edit_variance)


def source_files(options: argparse.Namespace, prompts: Sequence[Prompt]) -> list[Path] | None:
    """The picture of every prompt; None where nothing is edited.

    ValueError in one line for a prompt without one, or no picture of the folder: said before a network is loaded.
    """
    if edit_strength(options) is None:
        if options.images is not None:
            raise ValueError(f"--images {options.images} is for edits: give --edit-variance or --edit-time")
        return None
    folder = options.prompts.parent if options.images is None else options.images
    files = []
    for prompt in prompts:
        if prompt.image is None:
            raise ValueError(f"prompt {prompt.key} has no `image`, which is to be edited; name its file in a .jsonl")
        if Path(prompt.image).is_absolute() or ".." in Path(prompt.image).parts:
            told = f"prompt {prompt.key} has the image {shown(prompt.image)}, which leaves the folder {folder}"
            raise ValueError(f"{told}; name a file inside it, or give --images FOLDER")
        files.append(Path(folder, prompt.image))
        read_picture(files[-1], 1)
    return files


def opened(files: Sequence[Path] | None, size: Size) -> PictureFiles | None:
    """Pictures of this size, read when they are needed."""
    return None if files is None else PictureFiles(files, size)


def check_no_images(prompts: Sequence[Prompt]) -> None:
    """ValueError in one line where pictures are given and not edited."""
    if given := [prompt.key for prompt in prompts if prompt.image is not None]:
        raise ValueError(
            f"prompt {given[0]} has an `image`, and nothing is edited: give --edit-variance, or leave it out"
        )
