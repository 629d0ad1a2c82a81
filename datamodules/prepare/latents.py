"""Latents and prompt states beside captioned images, for a latent diffusion model to train on without their encoders.

KEY.latent.npy: float16 [C, h, w], the mean of the code of the picture, scaled as the diffusion model sees it.
KEY.prompt.npy: float16 [K, L, D], the states of the L tokens of each of K captions; where there are fewer, they repeat.
KEY.pooled.npy: float16 [K, P], a vector of each caption, for models that take one (SDXL, Stable Diffusion 3).
Read them with --data.arrays "[latent, prompt]" at the same --data.image_size; they are of whole, unmirrored pictures.
"""

import argparse
from pathlib import Path
from typing import Any

from datamodules.prepare import add_output_arguments
from fewstep.picture_size import Size, as_stored, as_text, size_argument

CHUNK = 32  # samples that are encoded together
README = """# {name}

The samples of {source} with KEY.latent.npy (float16 [C, h, w], pictures of {size} px) and {prompts}
(float16 [{captions}, ..], the sample's captions, repeated where it has fewer). Hashes of the weights: {hashes}.
Command: `{command}`
{notice}"""


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_output_arguments(command)
    command.add_argument("--data", required=True, metavar="DIR", help="shard folder, as ImageTextDataModule reads it")
    command.add_argument("--autoencoder", required=True, metavar="DIR", help="folder or hub id, with or without vae/")
    command.add_argument("--text-encoder", required=True, metavar="DIR", help="open_clip folder, or pipeline or hub id")
    size = "of the pictures in pixels: 64 for squares, 64x128 for height x width (default: what index.json says)"
    command.add_argument("--size", type=size_argument, help=size)
    command.add_argument("--captions", type=int, help="captions kept of each sample (default: the largest number)")
    command.add_argument("--device", default="cpu", help="where to encode, such as cuda (default cpu)")


def run(options: argparse.Namespace) -> None:
    from datamodules.image_folder import open_images
    from datamodules.prepare.image_shard_writing import Samples, write_image_folder
    from datamodules.shard_sources import source_index, splits
    from fewstep.backbones.frozen_encoders import FrozenEncoders

    about = source_index(options.data) or {}
    given = options.size or about.get("image_size")
    if not given:
        raise ValueError(f"{options.data} does not say how large its pictures are; give --size in pixels, such as 64")
    if options.captions is not None and options.captions < 1:
        raise ValueError(f"--captions {options.captions}: give 1 or more, or leave it out for all")
    size = as_stored(given, f"{options.data}: image_size")
    indexes = {split: open_images(options.data, split) for split in splits(options.data)}
    captions = options.captions or max(most_captions(index) for index in indexes.values())
    encoders = FrozenEncoders(options.autoencoder, options.text_encoder, size).to(options.device)
    chunks = {split: EncodedChunks(index, encoders, size, captions) for split, index in indexes.items()}
    hashes, named = encoders.hashes, ", ".join(f"{part} {digest}" for part, digest in encoders.hashes.items())
    description = {
        "name": Path(options.out).name,
        "license": about.get("license", "see the owner of the pictures"),
        # With the weights: an interrupted build must not go on with other ones.
        "command": f"{options.command_line} # {named}",
        "image_size": size,
        "notes": {**about.get("notes", {}), "latents": {"source": options.data, "captions": captions, **hashes}},
    }
    notice = Path(options.data, "NOTICE")
    text = f"\n{notice.read_text()}" if notice.is_file() else ""
    prompts = " and ".join(f"KEY.{name}.npy" for name in encoders.stored_names)
    facts = {"source": options.data, "size": as_text(size), "captions": captions, "hashes": named, "notice": text}
    facts |= {"name": description["name"], "command": description["command"], "prompts": prompts}
    texts = {"README.md": README.format(**facts)}
    samples = {split: Samples(list(chunk.rows), chunk.render) for split, chunk in chunks.items()}
    shards = [Path(path) for index in indexes.values() for path in index.paths]
    write_image_folder(options.out, samples, description, options.overwrite, texts=texts, sources=shards)


def most_captions(index: Any) -> int:
    """The largest number of captions that a sample of this split has."""
    from datamodules.bad_sample import BadSample
    from datamodules.captions import captions_of

    files, most = open_files(), 1
    for row in range(len(index)):
        try:
            fields = members(index, files, row, ("txt", "json"))
            most = max(most, len(captions_of(fields.get("txt"), fields.get("json"))[0]))
        except BadSample:
            continue  # it will be left out
    return most


class EncodedChunks:
    """The samples of a split with their arrays; the neighbours of the one that is asked for are encoded with it."""

    def __init__(self, index: Any, encoders: Any, size: Size, captions: int) -> None:
        from datamodules.image_samples import SampleDecoder
        from datamodules.image_transforms import ImageTransform

        self.index, self.encoders, self.captions, self.files = index, encoders, captions, open_files()
        self.decoder = SampleDecoder(ImageTransform(size))
        self.rows = {index.key(row): row for row in range(len(index))}
        if len(self.rows) < len(index):
            raise ValueError(
                f"{index.paths[0]}: {len(index) - len(self.rows)} keys occur twice in a split; rename them"
            )
        self.number, self.ready = -1, {}

    def render(self, key: str) -> dict[str, bytes]:
        """All members of a sample and its arrays; BadSample if it cannot be read."""
        # Chunks begin at multiples of CHUNK wherever a build goes on: equal batches give equal bytes.
        if (number := self.rows[key] // CHUNK) != self.number:
            start = number * CHUNK
            self.number, self.ready = number, self._encoded(range(start, min(start + CHUNK, len(self.index))))
        if isinstance(fields := self.ready[self.rows[key]], Exception):
            raise fields
        return fields

    def _encoded(self, rows: range) -> dict[int, Any]:
        """{row: its members, or the BadSample that it is}."""
        import torch

        from datamodules.bad_sample import BadSample
        from datamodules.captions import captions_of

        found: dict[int, Any] = {}
        images, captions = [], []
        for row in rows:
            try:
                fields = members(self.index, self.files, row, self.index.fields)
                image = self.decoder(fields, self.index.key(row), 0)["image"]
                several, _ = captions_of(fields.get("txt"), fields.get("json"))
            except BadSample as bad:
                found[row] = bad
                continue
            found[row] = fields
            images.append(image)
            captions += [several[number % len(several)] for number in range(self.captions)]
        if images:
            device = self.encoders.null_condition["prompt"].device
            pixels = torch.stack(images).to(device).float().div(127.5).sub(1)
            batch = {"image": pixels, "caption": captions}
            latents, condition = self.encoders.read(batch, training=False)
            arrays = {"latent.npy": latents}
            for name in self.encoders.stored_names:
                arrays[f"{name}.npy"] = condition[name].unflatten(0, (len(images), self.captions))
            good = [row for row in rows if not isinstance(found[row], Exception)]
            for number, row in enumerate(good):
                found[row] |= {name: npy(values[number]) for name, values in arrays.items()}
        return found


def open_files() -> Any:
    from datamodules.image_samples import ShardFiles

    return ShardFiles()


def members(index: Any, files: Any, row: int, names: Any) -> dict[str, bytes]:
    """{suffix: content} of those members of a sample that it has."""
    spans = {name: index.span(row, name) for name in names}
    return {name: files.read(*span) for name, span in spans.items() if span is not None}


def npy(values: Any) -> bytes:
    """A .npy file of float16; ValueError in one line if a value does not fit."""
    import io

    import numpy as np

    array = values.cpu().numpy().astype(np.float16)
    if not np.isfinite(array).all():
        raise ValueError("an encoder gives NaN, or values above 65504; are its weights whole?")
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
