"""The table of single samples: right rows, right scores, bounded size, with W&B and without."""

import csv
import io
import json

import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch.utils.data import DataLoader

from callbacks.metrics.rows import SampleValues
from callbacks.pictures.sample_table import SampleTableCallback
from callbacks.tracking.wandb_logger import OfflineFirstWandbLogger
from tests.callbacks.image_run import QUIET, Generator, Loader, run, table, to_uint8
from tests.callbacks.wandb_record import history, parts_of, records


class Brightness(Callback):
    """A metric that keeps one value per sample, by key, as CLIPScoreCallback does."""

    def on_test_epoch_start(self, trainer, pl_module):
        self._values = SampleValues()

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        rows = batch["weight"] > 0
        keys = [key for key, keep in zip(batch["key"], rows, strict=True) if keep]
        self._values.add(keys, score=outputs["image"][rows].mean(dim=(1, 2, 3)))

    def on_test_epoch_end(self, trainer, pl_module):
        _, columns = self._values.gather()
        self.rows = {"test/brightness": columns["score"], "val/other": columns["score"], "test/short": torch.ones(2)}


class Recorder(OfflineFirstWandbLogger):
    """Keeps what it is handed."""

    def log_sample_table(self, key, columns, rows, step):
        self.table = (key, columns, rows, step)
        super().log_sample_table(key, columns, rows, step)


@pytest.fixture(autouse=True)
def _ends():
    yield
    wandb.teardown()


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def scored(columns):
    return columns | {"points": torch.arange(float(len(columns["key"])))}


def test_rows_hold_the_scores_of_their_own_sample_whatever_the_order(tmp_path):
    columns = scored(table())
    order = torch.randperm(len(columns["key"]), generator=torch.Generator().manual_seed(0))
    logger = Recorder(str(tmp_path), "name")
    callbacks = [SampleTableCallback(max_rows=5, original="image"), Brightness()]
    model = Generator((("image", "made"), ("score", "points")))
    trainer = Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, callbacks=callbacks, **QUIET)
    trainer.loggers = [logger]
    trainer.test(model, Loader(columns, order=order), verbose=False)
    logger.close()

    key, names, rows, step = logger.table
    assert (key, step) == ("test/sample_table", 0)
    assert names == ["key", "prompt", "original", "image", "score", "brightness"]
    made = to_uint8(table()["made"])
    for i, row in enumerate(rows):
        values = dict(zip(names, row, strict=True))
        assert (values["key"], values["prompt"], values["score"]) == (f"{i:06d}", f"picture {i}", i)
        assert values["brightness"] == pytest.approx(table()["made"][i].mean().item(), abs=1e-6)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(values["image"]))), made[i].permute(1, 2, 0))
    written = read(tmp_path / "tables" / "test_samples" / "00000000.csv")
    assert [row["key"] for row in written] == [f"{i:06d}" for i in range(5)]
    assert float(written[3]["score"]) == 3

    found = history(records(parts_of(tmp_path)[0]))
    by_key = {key: value for row in found for key, value in row.items()}
    assert by_key["test/sample_table/nrows"] == 5
    assert sum(by_key["test/brightness_of_samples/values"]) == len(columns["key"])  # of all, not of five
    (file,) = tmp_path.glob("wandb/offline-run-*/files/media/table/test/*.table.json")
    assert json.loads(file.read_text())["columns"] == names


def test_pictures_are_bounded_and_the_csv_is_not(tmp_path):
    logger = Recorder(str(tmp_path), "name")
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, **QUIET)
    trainer.callbacks.append(SampleTableCallback(max_rows=20, max_bytes=1500))
    trainer.loggers = [logger]
    trainer.test(Generator(), Loader(table()), verbose=False)
    logger.close()
    pictures = [cell for row in logger.table[2] for cell in row if isinstance(cell, bytes)]
    assert 0 < sum(map(len, pictures)) <= 1500
    assert sum(map(len, pictures)) + len(pictures[-1]) > 1300  # as many as fit
    assert len(read(tmp_path / "tables" / "test_samples" / "00000000.csv")) == 20


def test_works_without_a_logger(tmp_path):
    run(tmp_path, [SampleTableCallback(max_rows=100)])
    assert len(read(tmp_path / "tables" / "test_samples" / "00000000.csv")) == len(table()["key"])


def test_every_second_validation_of_a_training_run(tmp_path):
    callback = SampleTableCallback(max_rows=2, every_n_validations=2)
    options = QUIET | {"max_epochs": 5, "limit_train_batches": 3, "num_sanity_val_steps": 1}
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, callbacks=[callback], **options)
    trainer.fit(Generator(), DataLoader(range(9)), Loader(table(9)))
    assert sorted(p.name for p in (tmp_path / "tables" / "val_samples").iterdir()) == ["00000006.csv", "00000012.csv"]


def test_validations_are_left_out_by_default(tmp_path):
    run(tmp_path, [SampleTableCallback()], stage="validate")
    assert not (tmp_path / "tables").exists()


def test_two_processes_give_the_table_of_one(tmp_path):
    model = Generator((("image", "made"), ("score", "points")))
    results = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        strategy = "ddp_fork" if devices > 1 else "auto"
        run(
            folder,
            [SampleTableCallback(max_rows=7)],
            Loader(scored(table())),
            model,
            devices=devices,
            strategy=strategy,
        )
        results.append(read(folder / "tables" / "test_samples" / "00000000.csv"))
    assert results[0] == results[1]
    assert len(results[0]) == 7


@pytest.mark.parametrize("options", [{"max_rows": 0}, {"max_bytes": 0}, {"every_n_validations": 0}, {"fields": ()}])
def test_nonsense_is_refused(options):
    with pytest.raises(ValueError, match="give 1 or more"):
        SampleTableCallback(**options)
