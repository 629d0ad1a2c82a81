"""From the bytes of a sample to what a batch holds, and from sample numbers to a batch; runs in loader workers.

Everything random about a sample (which of its captions, the crop, the flip) is a pure function of (seed, pass, key),
so it depends neither on the order of reading nor on the worker that reads.
"""

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.bad_sample import BadSample
from datamodules.captions import captions_of, json_object
from datamodules.image_decoding import decode_image
from datamodules.image_transforms import ImageTransform
from datamodules.npy_decoding import decode_npy
from datamodules.sample_index import SampleIndex
from datamodules.sample_pictures import IMAGE_SUFFIXES, picture_of
from datamodules.shard_files import MOST_BYTES, ShardFiles
from datamodules.worker_trace import WorkerTrace

GAP = 4096  # bytes that are read in vain rather than with a read of their own
REPLACEMENTS = 32  # tries to replace one bad sample before the data are called unusable
Fault = tuple[str, str, str]  # kind (bad_sample.KINDS), shard:key, detail


@dataclass(frozen=True)
class SampleDecoder:
    """What to take from a sample.

    Args:
        transform: gives every picture of a sample its final size.
        captions: "first", or "random": one of the sample's captions, another at every pass; "none":
            they are neither read nor needed.
        images: names of further pictures, KEY.NAME.{jpg,png,webp,...}, such as the target of an edit.
        arrays: names of arrays, KEY.NAME.npy, equal in shape over all samples, such as precomputed latents.
        metadata: keys of KEY.json, handed over as lists.
        background: what shows through transparent pixels, (red, green, blue) in 0..255.
        max_pixels: larger pictures are refused before they are decoded.
    """

    transform: ImageTransform
    captions: str = "first"
    images: tuple[str, ...] = ()
    arrays: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    background: tuple[int, int, int] = (255, 255, 255)
    max_pixels: int = 1 << 26
    seed: int = 0

    def __call__(self, fields: Mapping[str, bytes], key: str, number: int) -> dict[str, Any]:
        """One sample from its members {suffix: content}, at pass `number`; BadSample when it cannot be used."""
        names = ("", *(f"{name}." for name in self.images))
        pictures = [decode_image(picture_of(fields, name), self.background, self.max_pixels) for name in names]
        if self.captions == "none":
            captions, metadata = [], json_object(fields["json"]) if "json" in fields else {}
        else:
            captions, metadata = captions_of(fields.get("txt"), fields.get("json"))
        choice, *draw = self._draws(number, key)
        sized = self.transform(pictures, draw)
        sample = {"image": sized[0], **dict(zip(self.images, sized[1:], strict=True))}
        if captions:
            sample["caption"] = captions[choice % len(captions) if self.captions == "random" else 0]
        sample["key"] = key
        for name in self.arrays:
            if (content := fields.get(f"{name}.npy")) is None:
                raise BadSample("bad_array", f"no {name}.npy")
            sample[name] = torch.from_numpy(decode_npy(content))
        return sample | {name: metadata.get(name) for name in self.metadata}

    def wants(self, field: str) -> bool:
        """Whether a member with this suffix is ever read."""
        stem, _, suffix = field.rpartition(".")
        if suffix in IMAGE_SUFFIXES:
            return stem in ("", *self.images)
        if field == "txt":
            return self.captions != "none"
        return field == "json" or (suffix == "npy" and stem in self.arrays)

    def _draws(self, number: int, key: str) -> tuple[int, ...]:
        """Three random numbers below 2^32 that belong to (seed, pass, key)."""
        digest = blake2b(
            key.encode(), digest_size=12, salt=self.seed.to_bytes(8, "little") + number.to_bytes(8, "little")
        )
        return tuple(np.frombuffer(digest.digest(), dtype="<u4").tolist())


class ImageSamples(torch.utils.data.Dataset):
    """Batches by sample numbers: `samples[[(pass, number), ...]]` reads, decodes and collates.

    A bad sample is left out and named in the batch's `faults`. With `replace` another one, chosen by (seed, pass,
    number) alone, takes its place; without, its weight is 0 and its picture empty, so that shapes never change.
    Rows in `quarantined` count as bad and are never touched: they ended the processes that read them.
    """

    def __init__(self, index: SampleIndex, decoder: SampleDecoder, replace: bool):
        self.index, self.decoder, self.replace = index, decoder, replace
        self.fields = [field for field in index.fields if decoder.wants(field)]
        self.spans = np.zeros((len(index), len(self.fields), 2), dtype=np.int64)  # [N, fields, (offset, size)]
        for place, field in enumerate(self.fields):
            self.spans[:, place] = index.fields[field]
        self.files = ShardFiles()
        self.trace: WorkerTrace | None = None  # where a worker notes what it reads; none when no worker reads
        self.quarantined: set[int] = set()

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, wanted: list[tuple[int, int]]) -> dict[str, Any]:
        """The batch; or, when nothing of it can be had, {"stop": why} instead of an exception out of a worker."""
        try:
            return self._batch(wanted)
        except ValueError as error:
            return {"stop": str(error)}
        except StopIteration as error:  # torch would take it for the end of the pass
            raise RuntimeError(
                "reading a sample raised StopIteration: a transform has asked an empty iterator"
            ) from error
        finally:
            self._rest()

    def _rest(self) -> None:
        if self.trace is not None:
            self.trace.rest()

    def _batch(self, wanted: list[tuple[int, int]]) -> dict[str, Any]:
        faults: list[Fault] = []
        samples = [self._sample(number, row, faults) for number, row in wanted]
        self._rest()  # what happens while samples are put together is not the last one's fault
        bad = [sample is None for sample in samples]
        if any(bad):
            full = samples[bad.index(False)] if not all(bad) else self._first()
            empty = {name: torch.zeros_like(v) if isinstance(v, Tensor) else None for name, v in full.items()}
            blank = {"caption": ""} if "caption" in full else {}
            for place, (_, row) in enumerate(wanted):
                samples[place] = samples[place] or {**empty, **blank, "key": self.index.key(row)}
        batch = {**collate(samples), "faults": faults}
        return batch if self.replace else {**batch, "weight": 1.0 - torch.tensor(bad, dtype=torch.float32)}

    def _sample(self, number: int, row: int, faults: list[Fault]) -> dict[str, Any] | None:
        """The sample of this row; if it is bad, its replacement, or None."""
        for attempt in range(REPLACEMENTS):
            try:
                return self._decoded(number, row)
            except BadSample as bad:
                faults.append((bad.kind, self.where(row), bad.detail))
            if not self.replace:
                return None
            row = int(np.random.default_rng((self.decoder.seed, number, row, attempt)).integers(len(self.index)))
        kind, where, detail = faults[-1]
        why = f"{kind}: {detail}" if detail else kind
        raise ValueError(f"{REPLACEMENTS} unusable samples in a row, the last {where} ({why}); check the folder")

    def _decoded(self, number: int, row: int) -> dict[str, Any]:
        if self.trace is not None:
            self.trace.reading(row)
        if row in self.quarantined:
            raise BadSample("ends_workers")
        return decoded(self.decoder, self.read(row), self.index.key(row), number)

    def read(self, row: int) -> dict[str, bytes]:
        """{suffix: content} of the members of a sample that the decoder reads; BadSample when they cannot be read."""
        path = self.index.paths[self.index.shard[row]]
        spans = {name: span for name, span in zip(self.fields, self.spans[row].tolist(), strict=True) if span[0] >= 0}
        if not spans:
            return {}
        start, stop = min(at for at, _ in spans.values()), max(at + size for at, size in spans.values())
        if stop - start > min(MOST_BYTES, sum(size for _, size in spans.values()) + GAP):
            return {name: self.files.read(path, at, size) for name, (at, size) in spans.items()}
        together = self.files.read(path, start, stop - start)  # neighbours in the tar: one read
        return {name: together[at - start : at - start + size] for name, (at, size) in spans.items()}

    def where(self, row: int) -> str:
        """SHARD:KEY of a sample."""
        return f"{os.path.basename(self.index.paths[self.index.shard[row]])}:{self.index.key(row)}"

    def _first(self) -> dict[str, Any]:
        """The first sample that can be read, for its shapes."""
        for row in range(len(self.index)):
            try:
                return self._decoded(0, row)
            except BadSample:
                continue
        raise ValueError(f"{self.index.paths[0]}: no sample of it can be read; run python -m datamodules.prepare check")


def decoded(decoder: SampleDecoder, fields: Mapping[str, bytes], key: str, number: int) -> dict[str, Any]:
    """The decoder's sample; BadSample also when it cannot be handed to another process, where nobody would see that."""
    sample = decoder(fields, key, number)
    try:
        pickle.dumps([value for value in sample.values() if not isinstance(value, Tensor)])
    except Exception as error:  # pickle raises whatever the objects in it lead to
        raise BadSample("bad_json", f"its metadata cannot be handed on ({type(error).__name__})") from error
    return sample


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack tensors, list everything else; ValueError in one line when shapes differ."""
    batch: dict[str, Any] = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        if not isinstance(values[0], Tensor):
            batch[name] = values
            continue
        shapes = {tuple(value.shape) for value in values}
        if len(shapes) > 1:
            raise ValueError(f"{name}: shapes {sorted(shapes)} in one batch; all samples need the same")
        batch[name] = torch.stack(values)
    return batch
