"""A dry run for more ranks than there are: one process, collectives that answer as if all ranks were alike."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy

import train
from callbacks.care.fully_sharded import FullySharded
from commands.train.dry_run import DryRun
from commands.train.dry_run_ranks import batches_per_rank, rehearsal, take_ranks
from commands.train.run_directory import RUN_ID_VARIABLE
from tests.callbacks.tiny_run import FixedBatches, TinyData, TinyModule

ROOT = Path(train.__file__).parent


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """No trace of a launcher before, no process group after."""
    for name in ("WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", RUN_ID_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def asked(devices, num_nodes=1, accelerator="cpu"):
    return Namespace(trainer=Namespace(devices=devices, num_nodes=num_nodes, accelerator=accelerator))


@pytest.mark.parametrize(
    ("devices", "num_nodes", "ranks"),
    [(8, 2, 16), ("8", 1, 8), ([0, 1, 3], 2, 6), (1, 1, 1), ("auto", 1, 1), (-1, 1, 1), ("auto", 4, 4)],
)
def test_devices_times_nodes(devices, num_nodes, ranks):
    settings = asked(devices, num_nodes)
    assert take_ranks(settings) == ranks
    if ranks > 1:
        assert (settings.trainer.devices, settings.trainer.num_nodes) == (1, 1)


def test_ranks_that_a_launcher_has_started_are_left_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "16")
    settings = asked(8, 2)
    assert take_ranks(settings) == 1
    assert settings.trainer.devices == 8


@pytest.mark.skipif(torch.cuda.is_available(), reason="takes the GPU that is there")
def test_gpus_that_are_not_there_are_rehearsed_on_the_cpu():
    settings = asked(8, accelerator="gpu")
    take_ranks(settings)
    assert settings.trainer.accelerator == "cpu"


def trainer_of(ranks, folder, strategy="auto", callbacks=()):
    options = {"strategy": strategy, "plugins": []}
    options |= rehearsal(options, ranks)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    return Trainer(
        accelerator="cpu",
        devices=1,
        fast_dev_run=2,
        callbacks=list(callbacks),
        default_root_dir=folder,
        **quiet,
        **options,
    )


@pytest.mark.parametrize(("strategy", "kind"), [("auto", DDPStrategy), (FullySharded(), FullySharded)])
def test_one_process_acts_as_rank_0_of_sixteen(tmp_path, strategy, kind):
    report = DryRun(tmp_path)
    trainer = trainer_of(16, tmp_path, strategy, [report])
    assert isinstance(trainer.strategy, kind)
    trainer.fit(TinyModule(), datamodule=TinyData(batch_size=32))
    assert trainer.world_size == 16
    assert report.rows["ranks"] == "16, of which this is rank 0"
    assert report.rows["train batch"] == "x float32 [2, 2]\ny float32 [2, 1]"
    assert report.rows["rows per step"] == "32 = 2 x 16 ranks"
    assert report.rows["train batches"] == "10 on each of 16 ranks"
    assert report.rows["validation batches"] == "3 on each of 16 ranks"
    assert report._checkpoint_bytes == 3 * 17 * 4 + 4 * 4  # of all ranks: weights, two Adam moments, four counters


def test_data_that_prepare_themselves_are_rehearsed_too(capsys):
    """Behind Lightning's barrier, whose group of gloo's on a feigned store crashes the interpreter."""
    options = ["--trainer.devices", "8", "--trainer.num_nodes", "2", "--trainer.accelerator", "cpu", "--dry_run"]
    assert train.main(["fit", "-c", str(ROOT / "configs" / "ot_conditional" / "swiss_roll.yaml"), *options]) == 0
    assert "16, of which this is rank 0" in capsys.readouterr().out


class UnevenData(TinyData):
    """The last rank validates one batch fewer."""

    def val_dataloader(self):
        loader = super().val_dataloader()
        if self.trainer.global_rank == self.trainer.world_size - 1:
            loader.batches.pop()
        assert isinstance(loader, FixedBatches)
        return loader


def test_unequal_numbers_of_batches_are_refused(tmp_path):
    trainer = trainer_of(4, tmp_path)
    data = UnevenData()
    data.trainer = trainer
    data.setup("fit")
    trainer.datamodule = data
    with pytest.raises(ValueError, match="validation batches: 3 on rank 0, 2 on rank 3"):
        batches_per_rank(trainer)


def test_real_ranks_are_not_asked(tmp_path):
    assert batches_per_rank(Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)) == {}
