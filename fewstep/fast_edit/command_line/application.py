"""Edits of files on files: pictures are read, edited in batches of one shape, and written to a folder of their own."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fewstep.choices import require_range
from fewstep.fast_edit.application import Application, apply_edit
from fewstep.fast_edit.command_line.given_pictures import GivenPicture, fitted, given_pictures
from fewstep.fast_edit.edit_base import load_base
from fewstep.fast_edit.edit_file import StoredEdit, check_together, read_edit
from fewstep.fast_edit.edit_header import EditAbout
from fewstep.fast_edit.loaded_edits import load_edits
from fewstep.fast_edit.own_size import edit_at_own_size
from fewstep.fast_edit.tuned import Tuned
from fewstep.files.durable import replace_file
from fewstep.files.names import write_new
from fewstep.files.pictures import as_png, read_whole, to_picture
from fewstep.files.places import require_writable
from fewstep.icd.commands import require_device
from fewstep.picture_size import Size, height_and_width
from fewstep.rng import PerSampleRng


def apply_to_files(options: argparse.Namespace, files: Mapping[Path, float]) -> str:
    """Of several edits the first one's file says how they are applied, unless the options do."""
    require_device(options.device)
    require_range("--batch-size", options.batch_size, 1)
    require_writable(options.out)
    edits = [read_edit(file) for file in files]
    check_together(edits)
    shares = {edit.name: weight for edit, weight in zip(edits, files.values(), strict=True)}
    how = chosen_application(options, edits[0].about.application)
    pictures = given_pictures(options.pictures)
    crop = options.crop or (None if how.residual and options.size is None else "center")
    tuned = load_on_base(edits, options.base, options.device)
    size = options.size or tuned.base.sample_size
    run = edit_at_own_size if crop is None else apply_edit
    for keys, images in batches(pictures, options.batch_size, size, crop):
        rng = PerSampleRng(options.seed, keys, options.device)
        for key, edited in zip(keys, run(tuned, images.to(options.device), shares, rng, how), strict=True):
            put_picture(options.out / f"{key}.png", edited, options.overwrite, pictures)
    told = ", ".join(f"{edit.name} {shares[edit.name] * how.strength:g}{told_of_audit(edit.about)}" for edit in edits)
    return f"{options.out}  {len(pictures)} pictures  {told}  {how.passes(shares)} network passes each"


def told_of_audit(about: EditAbout) -> str:
    """What a user should know of an edit that has not passed."""
    if about.audit is None:
        return " (not audited)"
    if about.audit.get("passed") is True:
        return ""
    return " (forced)" if about.forced else " (failed its audit)"


def chosen_application(options: argparse.Namespace, known: Application) -> Application:
    """What the options ask for, else as it is known; ValueError in one line for what does not go together."""
    names = ("num_steps", "split", "strength", "projection")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.encoding is not None:
        given["encoding"] = replace(known.encoding, kind=options.encoding)
    return replace(known, residual=known.residual and not options.no_residual, **given)


def load_on_base(edits: Sequence[StoredEdit], base: str | None, device: str) -> Tuned:
    """On the base that is told or, where none is, on the one that the first edit names."""
    first = edits[0]
    return load_edits(load_base(base or folder_named_by(first, first.about.base, "--base")).to(device), edits)


def folder_named_by(edit: StoredEdit, name: str, option: str) -> str:
    """A name that an edit's file says, where it is a folder here: by no stranger's file is anything downloaded."""
    if Path(name).is_dir():
        return name
    raise ValueError(f"{edit.path} names {name[:100]}, which is no folder here; give {option}, if you trust it")


def batches(
    pictures: Sequence[GivenPicture], most: int, size: Size, crop: str | None
) -> Iterator[tuple[list[str], Tensor]]:
    """(keys, [B, 3, H, W] in [-1, 1]) of neighbours of one shape; of this size, or whole where crop is None."""
    shape = height_and_width(size, "--size")
    keys: list[str] = []
    images: list[Tensor] = []
    for key, content in pictures:
        image = read_whole(content) if crop is None else fitted(content, shape, crop)
        if images and (len(images) == most or image.shape != images[0].shape):
            yield keys, torch.cat(images)
            keys, images = [], []
        keys, images = [*keys, key], [*images, image]
    yield keys, torch.cat(images)


def put_picture(path: Path, image: Tensor, overwrite: bool, sources: Sequence[GivenPicture] = ()) -> Path:
    """As `put_file`, of [3, H, W] or [1, 3, H, W] in [-1, 1]."""
    return put_file(path, as_png(to_picture(image)), overwrite, sources)


def put_file(path: Path, content: bytes, overwrite: bool, sources: Sequence[GivenPicture] = ()) -> Path:
    """Where there is such a file NAME-2, unless overwrite, which never goes for one of the sources."""
    given = {source.content.resolve() for source in sources if isinstance(source.content, Path)}
    if not overwrite or path.resolve() in given:
        return write_new(path, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)
    return path
