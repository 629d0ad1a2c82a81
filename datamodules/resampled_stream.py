"""Training from shards that can only be read from front to back: remote tars without an index.

Each worker of each rank walks through all shards in an order of its own, without end, and mixes samples in a buffer. A
remote shard is copied to a temporary file while it is read, so that it can be checked like a local one.
Promised: every rank gets the same number of equally large batches, no shell is started, nothing is unpickled.
Not promised: that every sample is seen equally often, or that a resumed run sees what the uninterrupted one would
have seen. It draws anew, from (seed, samples seen so far), and never replays the beginning.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from datamodules.bad_sample import BadSample
from datamodules.image_samples import REPLACEMENTS, ImageSamples, SampleDecoder, collate, decoded
from datamodules.image_stream import Workers, accounted
from datamodules.remote import MOST_BYTES, is_remote, local_file
from datamodules.sample_index import scan_shard
from datamodules.sample_order import require_position
from datamodules.shard_sources import Shard
from datamodules.skipped import Skipped
from datamodules.worker_trace import WorkerTrace

BUFFER = 1000  # samples that wait, undecoded, to be mixed
MOST_ROWS = 1 << 32  # of one shard, so that one number can name shard and row


class ResampledImages:
    """`steps` batches per pass of the trainer; state {seed, samples}: see the module docstring for what it promises."""

    def __init__(
        self,
        shards: list[Shard],
        decoder: SampleDecoder,
        batch_size: int,
        steps: int,
        seed: int,
        rank: int,
        world: int,
        workers: Workers,
        skipped: Skipped,
    ):
        self.source = ShardDraws(shards, decoder, batch_size, seed, rank, world)
        self.steps, self.batch_size, self.seed, self.skipped = steps, batch_size, seed, skipped
        self.workers, self.samples, self.batches = workers, 0, None

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.batches is None:  # one endless stream for the whole run: its buffers stay filled between passes
            self.source.first = self.samples
            self.source.begin(0)
            self.batches = iter(self.workers.loader(self.source, self.source.begin))
        for _ in range(self.steps):
            batch = next(self.batches)
            self.samples += self.batch_size
            yield accounted(batch, self.skipped)

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed, "samples": self.samples}

    def load_state_dict(self, state: dict[str, int]) -> None:
        require_position(state, "samples")
        self.samples, self.batches = state["samples"], None


class ShardDraws(IterableDataset):
    """Endless collated batches of one rank from shards drawn at random, anew from (seed, samples seen, rank).

    batch_size: over all ranks. first: samples seen, over all ranks, before the stream began.
    """

    def __init__(self, shards: list[Shard], decoder: SampleDecoder, batch_size: int, seed: int, rank: int, world: int):
        self.urls = [shard.location for shard in shards]
        self.sizes = [shard.entry["bytes"] if shard.entry else MOST_BYTES for shard in shards]
        self.decoder, self.seed, self.rank = decoder, seed, rank
        self.global_batch_size, self.batch_size = batch_size, batch_size // world
        self.first, self.key = 0, (seed, 0, rank)
        self.trace: WorkerTrace | None = None
        self.quarantined: set[int] = set()

    def begin(self, done: int) -> None:
        """This many batches of the stream have been handed over: what comes never replays them."""
        self.key = (self.seed, self.first + done * self.global_batch_size, self.rank)

    def where(self, sample: int) -> str:
        """SHARD:KEY of a sample; its place instead of the key when the shard would have to be fetched for that."""
        shard, row = divmod(sample, MOST_ROWS)
        name = self.urls[shard].rpartition("/")[2]
        if is_remote(self.urls[shard]):
            return f"{name}:sample {row}"
        return f"{name}:{scan_shard(self.urls[shard])[0].key(row)}"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self._batches()
        except ValueError as error:
            yield {"stop": str(error)}

    def _batches(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        rng = np.random.default_rng((*self.key, worker.id if worker else 0))
        samples, faults, misses = [], [], 0
        for number, (sample, where, key, fields) in enumerate(mixed(self._read(rng, faults), rng)):
            try:
                with self._noted(sample):
                    samples.append(decoded(self.decoder, fields, key, number))
                misses = 0
            except BadSample as bad:
                faults.append((bad.kind, where, bad.detail))
                misses += 1
                if misses == REPLACEMENTS:
                    raise ValueError(f"{misses} unusable samples in a row, the last {where} ({bad})") from bad
            if len(samples) == self.batch_size:
                yield {**collate(samples), "faults": faults.copy()}
                samples = []
                faults.clear()

    @contextmanager
    def _noted(self, sample: int) -> Iterator[None]:
        """Work on a sample, noted for the case that it ends this worker; fetching a shard is not, it may take long."""
        if sample in self.quarantined:
            raise BadSample("ends_workers")
        if self.trace is not None:
            self.trace.reading(sample)
        try:
            yield
        finally:
            if self.trace is not None:
                self.trace.rest()

    def _busy(self) -> None:
        if self.trace is not None:
            self.trace.busy()

    def _read(self, rng: np.random.Generator, faults: list) -> Iterator[tuple[int, str, str, dict[str, bytes]]]:
        """(number, shard:key, key, fields) of the samples of one shard after another, without end."""
        while True:
            given = 0
            for place in rng.permutation(len(self.urls)).tolist():
                url, shard = self.urls[place], self.urls[place].rpartition("/")[2]
                self._busy()
                try:
                    with local_file(url, self.sizes[place], self._busy) as path:
                        index, damage = scan_shard(path)
                        faults.extend(("damaged_tar", shard, line.removeprefix(f"{path}: ")) for line in damage)
                        reader = ImageSamples(index, self.decoder, replace=False)
                        for row in range(len(index)):
                            given += 1
                            key = index.key(row)
                            where = f"{shard}:{key}"
                            self._busy()
                            try:
                                fields = reader.read(row)
                            except BadSample as bad:
                                faults.append((bad.kind, where, bad.detail))
                                continue
                            yield place * MOST_ROWS + row, where, key, fields
                except (OSError, ValueError) as error:
                    faults.append(("unreadable", shard, str(error)))
            if not given:
                raise ValueError(f"no sample in any of {len(self.urls)} shards; the last fault: {faults[-1:]}")


def mixed(samples: Iterator, rng: np.random.Generator) -> Iterator:
    """The same samples in random order, through a buffer that begins to give early and fills while it is used."""
    buffer: list = []
    for sample in samples:
        buffer.append(sample)
        if len(buffer) < BUFFER // 10 or (len(buffer) < BUFFER and rng.random() < 0.5):
            continue
        place = int(rng.integers(len(buffer)))
        buffer[place], buffer[-1] = buffer[-1], buffer[place]
        yield buffer.pop()
