"""The image stream: every order is a pure function, nothing is lost or repeated, bad samples are named and replaced."""

import json
import random
from collections import Counter

import numpy as np
import pytest
import torch

from datamodules.image_folder import open_images
from datamodules.image_samples import ImageSamples, SampleDecoder
from datamodules.image_stream import EvaluationImages, TrainImages, TrainPlan, Workers
from datamodules.image_transforms import ImageTransform
from datamodules.sample_order import ORDER, EndlessOrder, local_permutation
from datamodules.skipped import Skipped
from tests.datamodules.picture_shards import numbers_of, picture, sample, write_folder, write_tar

HERE = Workers(count=0)


def train_stream(folder, batch=6, steps=4, rank=0, world=1, workers=HERE, seed=0, skipped=None, **decoder):
    index = open_images(str(folder), "train")
    samples = ImageSamples(index, SampleDecoder(ImageTransform(8), seed=seed, **decoder), replace=True)
    plan = TrainPlan(EndlessOrder(len(index), seed, ORDER), batch, steps, rank, world)
    return TrainImages(samples, plan, workers, skipped or Skipped(1.0))


def evaluation_stream(folder, split="val", batch=4, rank=0, world=1, workers=HERE, skipped=None):
    samples = ImageSamples(open_images(str(folder), split), SampleDecoder(ImageTransform(8)), replace=False)
    return EvaluationImages(samples, batch, rank, world, workers, skipped or Skipped(1.0))


def global_keys(folder, steps, world=1, state=None, **options):
    """Keys of the global batches in order, put together from the ranks."""
    streams = [train_stream(folder, steps=steps, rank=rank, world=world, **options) for rank in range(world)]
    for stream in streams:
        if state:
            stream.load_state_dict(state)
    merged = []
    for batches in zip(*streams, strict=True):
        ranks = [batch["key"] for batch in batches]
        merged += [ranks[i % world][i // world] for i in range(sum(map(len, ranks)))]
    return merged, streams[0].state_dict()


@pytest.fixture
def shards(tmp_path):
    return write_folder(tmp_path / "shards", [5, 1, 7])


@pytest.fixture(scope="module")
def shared_shards(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("shared"), [40, 3, 61])


def test_every_pass_shows_every_sample_once_and_passes_differ(shards):
    keys, _ = global_keys(shards, steps=13)  # 78 samples = 6 passes over 13
    passes = [keys[i : i + 13] for i in range(0, 78, 13)]
    assert all(Counter(p) == Counter(f"{n:05d}" for n in range(13)) for p in passes)
    assert len({tuple(p) for p in passes}) == 6
    assert keys != global_keys(shards, steps=13, seed=1)[0]
    assert keys == global_keys(shards, steps=13)[0]


def test_pictures_captions_and_keys_belong_together(shards):
    for batch in train_stream(shards, metadata=("parity",)):
        assert batch["image"].dtype == torch.uint8
        assert batch["image"].shape == (6, 3, 8, 8)
        assert numbers_of(batch) == [int(key) for key in batch["key"]]
        assert batch["caption"] == [f"picture {int(key)}" for key in batch["key"]]
        assert batch["parity"] == ["odd" if int(key) % 2 else "even" for key in batch["key"]]


@pytest.mark.parametrize("trial", range(20))
def test_ranks_share_what_one_process_sees(tmp_path, trial):
    """Random shards, ranks, batch sizes and stops: equal lengths by construction, one order, nothing lost on resume."""
    rng = random.Random(trial)
    folder = write_folder(tmp_path / "shards", [rng.randint(1, 9) for _ in range(rng.randint(1, 5))])
    world, later = rng.choice([1, 2, 3, 4]), rng.choice([1, 2, 3, 4])
    batch, steps, stop = 12, 7, rng.randint(1, 6)
    whole, end = global_keys(folder, steps, batch=batch, seed=trial)
    first, state = global_keys(folder, stop, world, batch=batch, seed=trial)
    second, resumed_end = global_keys(folder, steps - stop, later, state, batch=batch, seed=trial)
    assert first + second == whole
    assert resumed_end == end
    assert set(state) == {"seed", "epoch", "sample"}
    assert all(type(value) is int for value in state.values())


def test_resume_with_another_batch_size_loses_nothing(shards):
    whole, _ = global_keys(shards, steps=6, batch=6)
    first, state = global_keys(shards, steps=2, batch=6)
    second, _ = global_keys(shards, steps=3, batch=8, state=state)
    assert first + second == whole


def test_a_checkpoint_of_another_seed_is_refused(shards):
    with pytest.raises(ValueError, match="seed 0, but the checkpoint's run used 3"):
        train_stream(shards).load_state_dict({"seed": 3, "epoch": 0, "sample": 0})


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_workers_change_nothing_however_they_start(shared_shards, start_method):
    """The reason for an own splitter: under spawn, webdataset's sees one rank and every rank reads everything."""
    workers = Workers(count=2 if start_method == "fork" else 1, start_method=start_method)
    expected = [list(train_stream(shared_shards, rank=rank, world=2, captions="random")) for rank in range(2)]
    found = [list(train_stream(shared_shards, rank=1, world=2, workers=workers, captions="random"))]
    for here, there in zip(expected[1], found[0], strict=True):
        assert here["key"] == there["key"]
        assert torch.equal(here["image"], there["image"])
    ranks = [{key for batch in batches for key in batch["key"]} for batches in expected]
    assert ranks[0].isdisjoint(ranks[1])


def test_a_stream_goes_on_where_it_stood_when_its_workers_have_read_ahead(shared_shards):
    stream = train_stream(shared_shards, steps=20, workers=Workers(count=2, prefetch=4))
    iterator = iter(stream)
    for _ in range(3):
        next(iterator)
    assert stream.state_dict() == {"seed": 0, "epoch": 0, "sample": 18}
    assert next(iter(stream))["key"] == list(train_stream(shared_shards, steps=4))[3]["key"]


@pytest.mark.parametrize("size", range(1, 14))
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_evaluation_sees_each_sample_once_over_all_ranks(tmp_path, size, world):
    folder = write_folder(tmp_path / "shards", [size], "val")
    ranks = [list(evaluation_stream(folder, rank=rank, world=world)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    real = Counter(
        key for batches in ranks for b in batches for key, w in zip(b["key"], b["weight"].tolist(), strict=True) if w
    )
    assert real == Counter(f"{n:05d}" for n in range(size))


def test_windows_shuffle_locally_and_still_show_everything():
    sizes = np.array([50] * 40)
    order = local_permutation(sizes, 200, 0, ORDER, 3)
    assert sorted(order) == list(range(2000))
    for start in range(0, 2000, 200):
        assert len(set(order[start : start + 200] // 50)) == 4  # a window reads four shards
    assert not (np.diff(order) == 1).mean() > 0.1
    assert (local_permutation(sizes, 200, 0, ORDER, 4) != order).any()


def test_captions_are_drawn_by_pass_and_key(tmp_path):
    captions = {"json": json.dumps({"captions": ["one", "two", "three"]}).encode()}
    folder = write_folder(tmp_path / "shards", [10], bad=dict.fromkeys(range(10), captions))
    random_ones = [b["caption"] for b in train_stream(folder, batch=10, steps=30, captions="random")]
    drawn = Counter(caption for batch in random_ones for caption in batch)
    assert set(drawn) == {"one", "two", "three"}
    assert all(60 < count < 140 for count in drawn.values())  # 300 draws, 100 each
    assert {c for b in train_stream(folder, batch=10, captions="first") for c in b["caption"]} == {"one"}


def test_further_pictures_and_arrays_come_along(tmp_path):
    npy = tmp_path / "a.npy"
    samples = {}
    for number in range(6):
        np.save(npy, np.full((2, 3), number, dtype=np.float16))
        samples[f"{number}"] = sample(number, edited_png=picture(number + 50), latent_npy=npy.read_bytes())
    write_tar(tmp_path / "shards" / "train-000000.tar", samples)
    for batch in train_stream(tmp_path / "shards", images=("edited",), arrays=("latent",)):
        assert (batch["edited"][:, 0, 0, 0] - 50).tolist() == numbers_of(batch)
        assert batch["latent"].shape == (6, 2, 3)
        assert batch["latent"][:, 0, 0].tolist() == numbers_of(batch)


BAD = {
    1: {"png": picture(1)[:40]},
    2: {"png": b"not a picture at all"},
    3: {"png": b""},
    4: {"txt": b"  ", "json": None},
    5: {"txt": None, "json": None},
    6: {"txt": b"\xff\xfe\xfa"},
    7: {"png": None},
}
KINDS = {
    "truncated_image",
    "not_an_image",
    "empty_file",
    "empty_caption",
    "missing_caption",
    "not_utf8",
    "missing_image",
}


@pytest.fixture
def broken_shards(tmp_path):
    write_folder(tmp_path / "shards", [30], bad=BAD)
    return write_folder(tmp_path / "shards", [9], "val", bad=BAD)


def test_bad_samples_are_replaced_counted_by_kind_and_named(broken_shards, caplog):
    skipped = Skipped(1.0)
    batches = list(train_stream(broken_shards, batch=10, steps=3, skipped=skipped))
    assert all(len(batch["key"]) == 10 and "faults" not in batch for batch in batches)
    assert {int(key) for batch in batches for key in batch["key"]}.isdisjoint(BAD)
    assert set(skipped.counts) == KINDS
    assert "left out train-000000.tar:00003: empty_file" in caplog.text


def test_replacements_do_not_depend_on_ranks_or_workers(broken_shards):
    whole, _ = global_keys(broken_shards, steps=3, batch=10)
    assert global_keys(broken_shards, steps=3, world=2, batch=10)[0] == whole


def test_bad_samples_weigh_nothing_in_evaluation(broken_shards):
    batches = list(evaluation_stream(broken_shards, batch=4))
    weights = {key: w for b in batches for key, w in zip(b["key"], b["weight"].tolist(), strict=True)}
    assert weights == {f"{n:05d}": float(n not in BAD) for n in range(9)}
    assert all(batch["image"].shape[1:] == (3, 8, 8) for batch in batches)


def test_too_many_bad_samples_stop_the_run(tmp_path):
    folder = write_folder(tmp_path / "shards", [100], bad={key: {"png": b"x"} for key in range(0, 100, 5)})
    with pytest.raises(ValueError, match=r"samples are unusable \(not_an_image \d+\), more than max_skipped=0.1"):
        list(train_stream(folder, batch=50, steps=10, skipped=Skipped(0.1)))
    list(train_stream(folder, batch=50, steps=10, skipped=Skipped(0.3)))


def test_strict_stops_at_the_first(broken_shards):
    with pytest.raises(ValueError, match=r"train-000000.tar:0000\d: .*strict=false"):
        list(train_stream(broken_shards, batch=30, steps=1, skipped=Skipped(strict=True)))


def test_warnings_are_limited(broken_shards, caplog):
    skipped = Skipped(1.0)
    skipped.update(1000, [("not_an_image", f"a.tar:{n}", "") for n in range(500)])
    assert len(caplog.records) == 6  # five in full, then one that sums up for a minute
    assert "so far 6 faults in 1000 samples" in caplog.records[-1].message


def test_a_shard_that_shrinks_while_it_is_read_gives_bad_samples(shards):
    """A memory-mapped file would end the process with SIGBUS."""
    skipped = Skipped(1.0)
    stream = train_stream(shards, batch=13, steps=1, skipped=skipped)
    path = shards / "train-000002.tar"
    with path.open("r+b") as file:
        file.truncate(2048)
    (batch,) = list(stream)
    assert set(skipped.counts) == {"damaged_tar"}
    assert set(map(int, batch["key"])) <= set(range(7))


def test_nothing_readable_is_one_clear_line(tmp_path):
    folder = write_folder(tmp_path / "shards", [5], bad={key: {"png": b"x"} for key in range(5)})
    with pytest.raises(ValueError, match=r"unusable samples in a row, the last train-000000\.tar"):
        next(iter(train_stream(folder)))


def test_it_is_one_clear_line_out_of_a_worker_too(tmp_path):
    folder = write_folder(tmp_path / "shards", [5], bad={key: {"png": b"x"} for key in range(5)})
    with pytest.raises(ValueError, match="unusable samples in a row") as caught:
        next(iter(train_stream(folder, workers=Workers(1))))
    assert "\n" not in str(caught.value)
