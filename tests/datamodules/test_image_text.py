"""ImageTextDataModule as a trainer uses it: splits, devices, selections, and one clear line for what is wrong."""

import json
import pickle
import re

import pytest
import torch

from datamodules import ImageTextDataModule
from datamodules.image_options import Splits, TransformOptions
from datamodules.image_text import to_unit_range
from datamodules.vector_shards import ShardFolder
from tests.datamodules.picture_shards import numbers_of, sample, write_folder, write_tar


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = write_folder(tmp_path_factory.mktemp("data") / "shards", [20, 4])
    write_folder(folder, [7], "val", first=100)
    return str(write_folder(folder, [5], "test", first=200))


def data(path, stage="fit", **options):
    sizes = {"image_size": 8, "batch_size": 8, "eval_batch_size": 4, "num_workers": 0}
    module = ImageTextDataModule(path, **{**sizes, **options})
    module.prepare_data()
    module.setup(stage)
    return module


def test_splits_sizes_and_the_length_of_a_pass(shards):
    module = data(shards)
    assert len(module.train_dataloader()) == 3
    assert len(data(shards, steps_per_epoch=50).train_dataloader()) == 50
    assert [key for b in module.val_dataloader() for key in b["key"]] == [f"{n:05d}" for n in range(100, 107)]
    module.setup("test")
    assert sum(b["weight"].sum() for b in module.test_dataloader()) == 5


def test_numbers_of_samples_to_measure_on_are_the_most_and_what_is_used_is_said_once(shards, caplog):
    module = data(shards, splits=Splits(num_val=64, num_test=5))
    module.setup("validate")
    module.setup("test")
    assert [key for b in module.val_dataloader() for key in b["key"]] == [f"{n:05d}" for n in range(100, 107)]
    assert sum(b["weight"].sum() for b in module.test_dataloader()) == 5
    assert caplog.messages == [f"{shards}: split 'val' has 7 samples, all of which are used; splits.num_val allows 64"]
    caplog.clear()
    assert len(module.parts.open("val", module.skipped, rank=1)) == 7
    assert caplog.messages == []


def test_pictures_in_the_place_of_shards_name_the_command_that_makes_them(tmp_path):
    folder = tmp_path / "my pictures"
    (folder / "cats").mkdir(parents=True)
    (folder / "notes.md").touch()
    with pytest.raises(ValueError, match=r"no .tar files at all"):
        data(str(folder))
    (folder / "cats" / "one.PNG").touch()
    made = f"python -m datamodules.prepare folder --images '{folder}' --out SHARDS"
    message = re.escape(f"{folder}: pictures ('cats/one.PNG') and no shards; make shards of them with {made}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        data(str(folder))


def test_a_path_that_is_not_there_says_from_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^data/mine: no such file or folder in {re.escape(str(tmp_path))}; name"):
        data("data/mine")
    with pytest.raises(ValueError, match=r"^/data/mine: no such file or folder; name"):
        data("/data/mine")
    with pytest.raises(ValueError, match=f"^no folder 'data/mine' in {re.escape(str(tmp_path))}; build it"):
        ShardFolder("data/mine")


def test_workers_give_bytes_and_the_device_gets_unit_range(shards):
    module = data(shards)
    batch = next(iter(module.train_dataloader()))
    assert batch["image"].dtype == torch.uint8
    red = batch["image"][:, 0, 0, 0].clone()
    image = module.on_after_batch_transfer(batch, 0)["image"]
    assert image.dtype == torch.float32
    torch.testing.assert_close(image[:, 0, 0, 0], red / 255 * 2 - 1)
    assert to_unit_range(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_rectangles_and_what_a_checkpoint_keeps_of_their_size(shards):
    module = data(shards, image_size=(8, 16), transform=TransformOptions(crop="none"))
    batch = next(iter(module.train_dataloader()))
    assert batch["image"].shape == (8, 3, 8, 16)
    assert (batch["image"][..., [0, -1]] == 255).all()  # the squares of 8 px stand in the middle
    assert module.hparams.image_size == [8, 16]
    again = ImageTextDataModule(**module.hparams)
    assert next(iter(again.val_dataloader()))["image"].shape == (4, 3, 8, 16)
    assert data(shards, image_size=[8, 8]).hparams.image_size == 8


@pytest.mark.parametrize("size", [0, 8.0, [8], [8, 0], [8, 8, 3], "8"])
def test_a_size_that_is_none_is_one_line(shards, size):
    with pytest.raises(ValueError, match=r"^image_size=.*: give one whole number from 1, for a square, or \[height"):
        data(shards, image_size=size)


def test_a_folder_without_validation_has_no_validation_loader(tmp_path):
    assert data(str(write_folder(tmp_path, [9]))).val_dataloader() == []


def test_validation_from_shards_of_its_own(shards, tmp_path):
    write_tar(tmp_path / "00000.tar", {f"{n}": sample(n) for n in range(3)})
    module = data(str(tmp_path), splits=Splits(val_path=shards))
    assert len(module.val_index) == 7
    assert len(data(shards, splits=Splits(val_path=str(tmp_path / "00000.tar"))).val_index) == 3


def test_selection_by_metadata_and_seeded_subsets(shards):
    odd = data(shards, select={"parity": "odd"})
    assert all(int(key) % 2 for batch in odd.train_dataloader() for key in batch["key"])
    assert len(data(shards, select={"number": [3, 4, 5]}, splits=Splits(val_path=shards, val="train")).train_index) == 3
    few, fewer = (data(shards, splits=Splits(num_train=n)).train_index for n in (10, 5))
    assert set(fewer.keys) < set(few.keys)
    assert set(data(shards, splits=Splits(num_train=5), seed=1).train_index.keys) != set(fewer.keys)


def test_selection_by_a_value_in_an_object(tmp_path):
    """Of one person, or of several in a list, of whom one is enough."""
    glasses = {3: {"attributes": {"glasses": "none"}}, 5: {"attributes": [{"glasses": "round"}, {"glasses": "none"}]}}
    glasses |= {7: {"attributes": {"glasses": "round"}}, 8: {"attributes": "none"}}
    bad = {number: {"json": json.dumps(held).encode()} for number, held in glasses.items()}
    folder = str(write_folder(tmp_path, [9], bad=bad))
    assert data(folder, select={"attributes.glasses": "none"}).train_index.keys.tolist() == [b"00003", b"00005"]
    assert data(folder, select={"attributes.glasses": ["none", "round"]}).train_index.keys.tolist()[-1] == b"00007"
    with pytest.raises(ValueError, match=r"attributes.glases: None; did you mean attributes.glasses\?$"):
        data(folder, select={"attributes.glases": "none"})
    with pytest.raises(ValueError, match=r"matches no sample; the metadata hold attributes.glasses: .*round$"):
        data(folder, select={"attributes.glasses": "square"})


def test_pictures_without_captions(tmp_path):
    """Shards of pictures alone, of which one is broken; the rest is as with captions."""
    bare = {"txt": None, "json": None}
    folder = write_folder(tmp_path / "bare", [9], bad=dict.fromkeys(range(9), bare) | {4: {**bare, "png": b"?"}})
    write_folder(folder, [3], "val", bad=dict.fromkeys(range(3), bare) | {1: {**bare, "png": b"?"}})
    module = data(str(folder), captions="none", max_skipped=0.9)
    batch = next(iter(module.train_dataloader()))
    assert sorted(batch) == ["image", "key"]
    assert set(numbers_of(batch)) <= set(range(9)) - {4}
    (seen,) = module.val_dataloader()
    assert sorted(seen) == ["image", "key", "weight"]
    assert seen["weight"].tolist() == [1, 0, 1]
    assert numbers_of(seen)[::2] == [0, 2]


def test_without_captions_metadata_are_read_still(shards):
    batch = next(iter(data(shards, captions="none", metadata=["parity"]).train_dataloader()))
    assert batch["parity"] == ["odd" if number % 2 else "even" for number in numbers_of(batch)]
    assert "caption" not in batch


def test_ranks_come_from_the_trainer_in_the_parent(shards):
    class Strategy:
        root_device = torch.device("cpu")

    class Trainer:
        global_rank, world_size, strategy = 1, 2, Strategy()

    module = data(shards)
    alone = [batch["key"] for batch in module.train_dataloader()]
    module.trainer = Trainer()
    assert [batch["key"] for batch in module.train_dataloader()] == [keys[1::2] for keys in alone]


def test_the_loader_travels_to_a_spawned_process(shards):
    samples = data(shards).train_dataloader().loader.dataset
    batch = samples.__getitems__([(0, 3)])  # opens a file
    again = pickle.loads(pickle.dumps(samples)).__getitems__([(0, 3)])
    assert torch.equal(batch["image"], again["image"])


def test_hyper_parameters_are_plain_types(shards):
    module = data(shards, select={"parity": "odd"}, splits=Splits(num_train=5), transform=TransformOptions(flip=True))
    state = dict(module.hparams)
    assert plain(state)
    again = ImageTextDataModule(**state)  # as Lightning's load_from_checkpoint makes it
    assert (again.splits, again.transform, again.loader) == (module.splits, module.transform, module.loader)
    assert dict(again.hparams) == dict(again.hparams_initial) == state


def plain(value):
    inner = value.values() if type(value) is dict else value if type(value) is list else ()
    return type(value) in (str, int, float, bool, list, dict, type(None)) and all(map(plain, inner))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "nowhere"}, "nowhere"),
        ({"splits": {"train": "trian"}}, "^splits.train=trian: .* has no split 'trian', only 'test', 'train', 'val'"),
        ({"splits": {"val": "vla"}}, "^splits.val=vla: .* has no split 'vla', only 'test', 'train', 'val'"),
        ({"num_workers": 5000}, "num_workers=5000: each is a process; give 1024 at most"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"splits": {"num_train": 0}}, "splits.num_train=0: must be at least 1"),
        ({"splits": {"num_val": -1}}, "splits.num_val=-1: must be at least 1"),
        ({"splits": {"num_test": 0}}, "splits.num_test=0: must be at least 1"),
        ({"transform": {"max_pixels": 0}}, "transform.max_pixels=0: must be at least 1"),
        ({"loader": {"prefetch": 0}}, "loader.prefetch=0: must be at least 1"),
        ({"loader": {"restarts": -1}}, "loader.restarts=-1: must be at least 0"),
        (
            {"splits": {"num_train": 5}, "sampling": "resampled", "steps_per_epoch": 3},
            "sampling=resampled .* cannot",
        ),
        ({"captions": "last"}, "captions='last': choose one of first, random, none"),
        ({"transform": {"background": "white"}}, "transform.background='white': give six hexadecimal digits"),
        ({"transform": {"crop": "middle"}}, "transform.crop='middle': choose one of center, random, none"),
        ({"splits": {"num_train": 25}}, "splits.num_train=25: split 'train' of .* has 24 samples; lower it"),
        ({"select": {"parity": "even", "number": 3}}, "matches no sample; the metadata hold .*parity: even, odd"),
        ({"max_skipped": 2.0}, "max_skipped=2.0: give a share"),
        ({"loader": {"start_method": "thread"}}, "loader.start_method='thread': choose one of fork"),
        ({"sampling": "resampled"}, "sampling=resampled needs steps_per_epoch"),
        ({"num_workers": -1}, "num_workers=-1: must be at least 0"),
        ({"worker_timeout": float("nan")}, "worker_timeout=nan: must be at least 0"),
        ({"worker_timeout": float("inf")}, "worker_timeout=inf: give seconds, up to 1e.08; 0 is for ever"),
        ({"worker_timeout": None}, "worker_timeout=None: give seconds"),
        ({"path": ""}, "path='': give a folder of shards"),
        ({"path": []}, "path=..: give a folder of shards"),
        ({"path": [""]}, "path=....: give a folder of shards"),
        ({"seed": 1 << 64}, "seed=18446744073709551616: must be below"),
        ({"metadata": ["image"]}, "metadata=.'image'.: 'image' cannot be a further field, every batch has one"),
        ({"metadata": ["key"]}, "'key' cannot be a further field, every batch has one already"),
        ({"arrays": ["weight"]}, "arrays=.'weight'.: 'weight' cannot be a further field"),
        ({"images": ["after", "after"]}, "'after' cannot be a further field, images name it already"),
        ({"images": ["after"], "metadata": ["after"]}, "'after' cannot be a further field, images name it already"),
        ({"select": {"style": {"is": "noto"}}}, "select.style={'is': 'noto'}: give one value, or a list of values"),
        ({"select": {"style": [["noto"]]}}, "select.style=..'noto'..: give one value, or a list of values"),
    ],
)
def test_mistakes_are_one_line_before_any_step(shards, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        data(**{"path": shards, **options})
    assert "\n" not in str(caught.value)


def test_a_batch_that_ranks_cannot_share_is_refused(shards):
    module = data(shards)

    class Trainer:
        global_rank, world_size = 0, 3

    module.trainer = Trainer()
    with pytest.raises(ValueError, match="batch_size=8 cannot be shared by 3 processes"):
        module.train_dataloader()


def test_a_damaged_shard_gives_what_stands_before_the_damage(tmp_path, caplog):
    folder = write_folder(tmp_path, [10])
    path = folder / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:-16_000])
    module = data(str(folder))
    assert 0 < len(module.train_index) < 10
    assert module.skipped.counts["damaged_tar"] == 1
    assert "the other samples are used" in caplog.text
    with pytest.raises(ValueError, match="with strict=false"):
        data(str(folder), strict=True)
