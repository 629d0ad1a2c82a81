"""Remote shards without an index: every rank gets the same batches in number and size, restarts do not replay."""

import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from datamodules.image_samples import SampleDecoder
from datamodules.image_stream import Workers
from datamodules.image_transforms import ImageTransform
from datamodules.resampled_stream import BUFFER, ResampledImages, mixed
from datamodules.shard_sources import Shard
from datamodules.skipped import Skipped
from tests.datamodules.picture_shards import numbers_of, write_folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Addresses of three shards behind a real HTTP server; one of them ends in the middle of a sample."""
    folder = write_folder(tmp_path_factory.mktemp("served"), [40, 25, 60])
    content = (folder / "train-000002.tar").read_bytes()
    (folder / "train-000002.tar").write_bytes(content[:-20_000])
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield [f"http://127.0.0.1:{server.server_port}/train-{n:06d}.tar" for n in range(3)]
    server.shutdown()


def stream(urls, rank=0, world=1, workers=0, seed=0, steps=10, skipped=None):
    decoder = SampleDecoder(ImageTransform(8), seed=seed)
    shards = [Shard(url, None) for url in urls]
    return ResampledImages(shards, decoder, 8, steps, seed, rank, world, Workers(workers), skipped or Skipped(1.0))


def test_ranks_get_equally_many_batches_of_their_share(served):
    ranks = [list(stream(served, rank, world=2)) for rank in range(2)]
    assert [len(batches) for batches in ranks] == [10, 10]
    assert all(len(batch["key"]) == 4 for batches in ranks for batch in batches)
    assert all(numbers_of(b) == [int(key) for key in b["key"]] for batches in ranks for b in batches)
    assert [b["key"] for b in ranks[0]] != [b["key"] for b in ranks[1]]


def test_every_readable_sample_comes_and_the_damage_is_counted(served):
    skipped = Skipped(1.0)
    found = Counter(key for batch in stream(served, steps=200, skipped=skipped) for key in batch["key"])
    assert skipped.counts["damaged_tar"] >= 1
    assert set(map(int, found)) >= set(range(65))
    assert 65 < len(found) < 125  # the third shard lost its end


def test_a_seed_repeats_and_a_restart_does_not_replay(served):
    first = [batch["key"] for batch in stream(served)]
    assert first == [batch["key"] for batch in stream(served)]
    assert first != [batch["key"] for batch in stream(served, seed=1)]
    resumed = stream(served)
    resumed.load_state_dict({"seed": 0, "samples": 80})
    assert first != [batch["key"] for batch in resumed]


def test_passes_of_the_trainer_go_on_in_one_stream(served):
    whole = [batch["key"] for batch in stream(served, steps=6)]
    parts = stream(served, steps=3)
    assert [batch["key"] for _ in range(2) for batch in parts] == whole
    assert parts.state_dict() == {"seed": 0, "samples": 48}


def test_worker_processes_draw_differently(served):
    keys = [tuple(batch["key"]) for batch in stream(served, workers=2, steps=4)]
    assert len(set(keys)) == 4  # two workers with one seed would give each batch twice


def test_no_readable_shard_ends_in_one_line(tmp_path):
    (tmp_path / "train-0.tar").write_bytes(b"not a tar")
    with pytest.raises(ValueError, match="no sample in any of 1 shards"):
        next(iter(stream([str(tmp_path / "train-0.tar")])))


def test_the_buffer_loses_nothing_and_mixes():
    """An endless stream leaves at most a buffer behind."""
    given = list(mixed(iter(range(5000)), np.random.default_rng(0)))
    assert len(given) == len(set(given)) >= 5000 - BUFFER
    assert np.abs(np.array(given) - np.arange(len(given))).mean() > BUFFER / 4
