"""The datamodule: which rows are drawn, in which order, by which process, and the same after a resume."""

import io
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch

from datamodules import PairedVectorsDataModule
from datamodules.prepare.shard_writing import Description, write_folder
from datamodules.vector_batches import EvaluationBatches


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Rows that say who they are: x = (row, split), and y the same in pairs."""

    def rows(size, split):
        return np.stack([np.arange(size), np.full(size, split)], axis=1).astype(np.float32)

    splits = {
        name: {"x": rows(size, s), "y": rows(size, s)}
        for s, (name, size) in enumerate({"train_paired": 90, "val": 30, "test": 37}.items())
    }
    splits |= {"train_x": {"x": rows(50, 3)}, "train_y": {"y": rows(45, 4)}}
    splits["probe"] = {"x": rows(5 * 4, 5).reshape(5, 4, 2), "y": rows(5 * 4, 5).reshape(5, 4, 2)}
    folder = tmp_path_factory.mktemp("shards") / "toy"
    write_folder(str(folder), splits, Description("toy", "CC0-1.0", "none"))
    return str(folder)


def data(path, **options):
    return PairedVectorsDataModule(path, **({"num_pairs": 40, "batch_size": 8, "steps_per_epoch": 6} | options))


class Process:
    """What a datamodule asks of its trainer."""

    def __init__(self, rank, world):
        self.global_rank, self.world_size = rank, world


def on(process, module):
    module.trainer = process
    return module


def flat(batch):
    return {name: value.tolist() for name, value in batch.items()}


def test_pairs_stay_together_and_sizes_are_as_asked(path):
    module = data(path, unpaired_batch_size=16, num_unpaired_x=20)
    assert (module.x_dim, module.y_dim) == (2, 2)  # before setup
    batches = list(module.train_dataloader())
    assert len(batches) == len(module.train_dataloader()) == 6
    for batch in batches:
        assert {name: tuple(value.shape) for name, value in batch.items()} == {
            "x": (8, 2),
            "y": (8, 2),
            "x_unpaired": (16, 2),
            "y_unpaired": (16, 2),
        }
        assert torch.equal(batch["x"], batch["y"])
        assert [batch[name][:, 1].unique().tolist() for name in ("x", "x_unpaired", "y_unpaired")] == [[0], [3], [4]]
    drawn = torch.cat([batch["x_unpaired"][:, 0] for batch in batches])
    assert len(drawn.unique()) == 20


def test_each_pass_over_a_set_draws_every_row_once_in_a_new_order(path):
    module = data(path, steps_per_epoch=30)
    drawn = torch.cat([batch["x"][:, 0] for batch in module.train_dataloader()])
    passes = drawn.reshape(8, 30)  # 30 training pairs: 240 rows are 8 passes
    expected = module.reference()["x"][:, 0].sort().values
    assert all(torch.equal(one.sort().values, expected) for one in passes)
    assert len({tuple(one.tolist()) for one in passes}) == 8


def test_a_batch_larger_than_its_set_wraps_round(path):
    batch = next(iter(data(path, batch_size=64).train_dataloader()))
    counts = batch["x"][:, 0].unique(return_counts=True)[1]
    assert (len(counts), sorted(set(counts.tolist()))) == (30, [2, 3])


def test_the_pairs_of_a_smaller_number_are_among_those_of_a_larger_one(path):
    def chosen(num_pairs, seed=0):
        module = data(path, num_pairs=num_pairs, seed=seed)
        return set(module.reference()["x"][:, 0].tolist()), set(module.val_columns["index"].tolist())

    small, large, other = chosen(20), chosen(80), chosen(20, seed=1)
    assert [len(rows) for rows in (*small, *large)] == [15, 5, 60, 20]
    assert all(few < many for few, many in zip(small, large, strict=True))
    assert all(rows != others for rows, others in zip(small, other, strict=True))


def test_the_order_depends_on_the_seed_alone(path):
    first, second = ([flat(batch) for batch in data(path).train_dataloader()] for _ in range(2))
    assert first == second
    assert first != [flat(batch) for batch in data(path, seed=1).train_dataloader()]


@pytest.mark.parametrize("stop", [1, 6, 9])
def test_a_loaded_state_goes_on_where_the_sequence_stopped(path, stop):
    loader = data(path).train_dataloader()
    whole = [flat(batch) for _ in range(4) for batch in loader]
    module = data(path).train_dataloader()
    passes = (batch for _ in range(3) for batch in module)
    for _ in range(stop):
        next(passes)
    state = module.state_dict()
    resumed = data(path).train_dataloader()
    resumed.load_state_dict(state)
    assert [flat(batch) for _ in range(2) for batch in resumed] == whole[stop : stop + 12]


@pytest.mark.parametrize("world", [2, 4])
def test_processes_together_see_the_batch_of_one(path, world):
    alone = list(data(path).train_dataloader())
    ranks = [list(on(Process(rank, world), data(path)).train_dataloader()) for rank in range(world)]
    for step, batch in enumerate(alone):
        for name, rows in batch.items():
            shares = [rank[step][name] for rank in ranks]
            assert torch.equal(torch.stack(shares, dim=1).reshape(rows.shape), rows)


def test_every_row_is_evaluated_once_for_any_topology():
    rng = np.random.default_rng(0)
    for _ in range(200):
        size, batch, world = rng.integers(1, 40), int(rng.integers(1, 12)), int(rng.integers(1, 6))
        columns = {"index": torch.arange(size) + 7}
        ranks = [list(EvaluationBatches(columns, batch, rank, world)) for rank in range(world)]
        assert len({tuple(len(b["index"]) for b in batches) for batches in ranks}) == 1  # the same shapes everywhere
        assert len(ranks[0]) == len(EvaluationBatches(columns, batch, 0, world))
        seen = torch.cat([b["index"][b["weight"] == 1] for batches in ranks for b in batches])
        assert torch.equal(seen.sort().values, columns["index"])
        assert all(bool(columns["index"].eq(i).any()) for batches in ranks for b in batches for i in b["index"])


def test_evaluation_batches_hold_pairs_and_probe_groups(path):
    module = data(path, eval_batch_size=8)
    module.setup("test")
    pairs, probes = module.test_dataloader()
    assert [len(batch["index"]) for batch in pairs] == [8, 8, 8, 8, 5]
    assert all(torch.equal(batch["x"][:, 0].long(), batch["index"]) for batch in pairs)
    assert [tuple(batch["x"].shape) for batch in probes] == [(2, 4, 2), (2, 4, 2), (1, 4, 2)]  # 8 rows are 2 groups
    assert torch.cat([batch["y"][:, :, 0] for batch in probes]).flatten().tolist() == list(range(20))
    held_out = list(module.val_dataloader())
    assert sum(len(batch["x"]) for batch in held_out) == 10
    assert all(torch.equal(batch["x"][:, 0].long(), batch["index"]) for batch in held_out)
    assert data(path, val_fraction=0.0).val_dataloader() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_pairs": 200},
            "asks for 150 rows of 'train_paired', it has 90, num_pairs=200 asks for 50 rows of 'val', it has 30",
        ),
        ({"num_unpaired_y": 46}, "num_unpaired_y=46 asks for 46 .* has 45.* --data.num_unpaired_y 45$"),
        ({"num_pairs": 119, "val_fraction": 0.3}, "num_pairs=119 asks for 36 rows of 'val'"),
        ({"num_pairs": 1, "val_fraction": 0.9}, "leaves no pair"),
        ({"val_fraction": 1.0}, "val_fraction=1.0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"path": "nowhere/at/all"}, "no folder 'nowhere/at/all'"),
        ({"path": "."}, "no shards here"),
    ],
)
def test_bad_options_are_one_line(path, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        data(options.pop("path", path), **options).setup("fit")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(12))
def test_all_that_is_short_is_said_at_once_with_flags_that_work(path, seed):
    rng = np.random.default_rng(seed)
    asked = {"num_pairs": int(rng.integers(121, 400)), "val_fraction": float(rng.choice([0.0, 0.1, 0.25, 0.5, 0.8]))}
    asked |= {"num_unpaired_x": int(rng.integers(45, 60)), "num_unpaired_y": [None, 46, 4096][seed % 3]}
    with pytest.raises(ValueError, match=" asks for ") as caught:
        data(path, **asked).setup("fit")
    _, _, flags = str(caught.value).partition("or give ")
    words = flags.split()
    given = dict(zip([word.removeprefix("--data.") for word in words[::2]], map(int, words[1::2]), strict=True))
    data(path, **{**asked, **given}).setup("fit")
    for name, number in given.items():  # as many as there are
        with pytest.raises(ValueError, match=f"{name}={number + 1} asks for"):
            data(path, **{**asked, **given, name: number + 1}).setup("fit")


def test_counts_that_are_null_mean_all_and_what_is_used_is_one_line(path):
    module = PairedVectorsDataModule(path, batch_size=8)
    module.setup("fit")
    assert (module.num_train, module.num_val) == (90, 30)
    sizes = {name: len(column) for name, column in module.reference(None).items()}
    assert sizes == {"x": 90, "y": 90, "x_unpaired": 50, "y_unpaired": 45}
    assert sorted(module.val_columns["index"].tolist()) == list(range(30))
    assert module.used == f"{path}: 90 training pairs, 30 validation pairs, 50 unpaired x, 45 unpaired y"
    some = data(path, num_unpaired_x=7)
    told = "30 of 90 training pairs, 10 of 30 validation pairs, 7 of 50 unpaired x, 45 unpaired y"
    assert some.used == f"{path}: {told}"
    assert PairedVectorsDataModule(path, val_fraction=0.0).num_val == 0


def test_columns_are_those_of_the_index(path, tmp_path):
    assert data(path).columns == {"x_dim": 2, "y_dim": 2}
    rows = {"x": np.zeros((3, 1)), "y": np.zeros((3, 2))}
    about = {"x_names": ["a"], "y_mean": [1.0, 2.0], "y_std": [3.0, 4.0]}
    write_folder(str(tmp_path / "t"), {"train_paired": rows}, Description("t", "", "", **about))
    assert PairedVectorsDataModule(tmp_path / "t").columns == {"x_dim": 1, "y_dim": 2, **about}


def test_what_a_stage_does_not_read_may_be_short(path):
    module = data(path, num_unpaired_x=4096)
    module.setup("validate")
    module.setup("test")


def test_a_batch_that_processes_cannot_share_is_refused(path):
    with pytest.raises(ValueError, match="batch_size=8 cannot be shared by 3 processes"):
        on(Process(0, 3), data(path)).train_dataloader()


def test_splits_of_different_dimension_are_refused_without_an_index(path, tmp_path):
    for file in ("train_paired-000000.tar", "train_y-000000.tar"):
        (tmp_path / file).write_bytes(Path(path, file).read_bytes())
    write_folder(
        str(tmp_path / "other"),
        {"train_x": {"x": np.ones((9, 3))}, "train_y": {"y": np.ones((9, 2))}},
        Description("o", "", ""),
    )
    (tmp_path / "other" / "train_x-000000.tar").rename(tmp_path / "train_x-000000.tar")
    with pytest.raises(ValueError, match="rows of 3 numbers, but x has 2"):
        data(str(tmp_path), val_fraction=0.0).setup("fit")


class Recorder(lightning.LightningModule):
    """A model that only writes down the rows it is given, and saves a checkpoint after `save_after` steps."""

    def __init__(self, save_after=0):
        super().__init__()
        self.weight, self.seen, self.save_after = torch.nn.Parameter(torch.zeros(())), [], save_after

    def training_step(self, batch, batch_idx):
        self.seen.append(flat(batch))
        return self.weight * batch["x"].mean()

    def on_train_batch_end(self, *_):
        if self.trainer.global_step == self.save_after:
            self.trainer.save_checkpoint(Path(self.trainer.default_root_dir, "running.ckpt"))

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(path, folder, model, steps=16, resume=None):
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(model, data(path), ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(folder / "ended.ckpt")
    return model.seen


@pytest.mark.parametrize("stop", [4, 6, 8])
def test_lightning_resumes_on_the_very_next_batch(path, tmp_path, stop):
    whole = fit(path, tmp_path, Recorder(save_after=stop))
    assert len(whole) == 16
    assert fit(path, tmp_path, Recorder(), resume=tmp_path / "running.ckpt") == whole[stop:]
    assert fit(path, tmp_path, Recorder(), steps=stop) == whole[:stop]
    assert fit(path, tmp_path, Recorder(), resume=tmp_path / "ended.ckpt") == whole[stop:]


def test_hyper_parameters_are_plain(path, tmp_path):
    buffer = io.BytesIO()
    torch.save(dict(data(Path(path)).hparams), buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True)["path"] == path
