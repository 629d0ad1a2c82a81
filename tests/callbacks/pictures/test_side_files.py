"""A disk that refuses pictures and tables costs them alone: never a number, never the run."""

import errno
import os

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from callbacks import SampleGridCallback, SamplePicture, SampleTableCallback
from callbacks.pictures.side_files import write_or_say


class Sampler(LightningModule):
    """Logs a number, and returns what the pictures are made of."""

    def test_step(self, batch, batch_idx):
        self.log("test/value", 1.5, batch_size=4)
        return {"sample": batch["y"] + 1, "image": torch.zeros(4, 3, 8, 8)}


def test_with(run, *callbacks):
    """The test metrics of one batch, and whether a logger was handed an image."""
    shown = []

    class Album(CSVLogger):
        def log_image(self, key, images):
            shown.append(key)

    batch = {"x": torch.randn(4, 2), "y": torch.randn(4, 2), "index": torch.arange(4), "weight": torch.ones(4)}
    batch |= {"key": list("abcd"), "caption": list("abcd"), "image": torch.zeros(4, 3, 8, 8)}
    trainer = Trainer(
        default_root_dir=run, callbacks=list(callbacks), logger=Album(run / "csv"), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    return trainer.test(Sampler(), torch.utils.data.DataLoader([batch], batch_size=None), verbose=False)[0], shown


test_with.__test__ = False
KINDS = {
    "pictures/samples.png": SamplePicture,
    "pictures/test_samples/00000000.png": SampleGridCallback,
    "tables/test_samples/00000000.csv": SampleTableCallback,
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("fault", ["a file in the place of a folder", "a folder in the place of the file", "full"])
def test_what_cannot_be_written_is_one_line_and_costs_no_number(tmp_path, capsys, monkeypatch, name, fault):
    path = tmp_path / name
    if fault == "full":
        write = os.fsync
        refusal = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def full(descriptor):
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(path.parent)):
                raise refusal
            write(descriptor)

        monkeypatch.setattr(os, "fsync", full)
    elif "file in" in fault:
        (tmp_path / name.partition("/")[0]).write_text("mine")
    else:
        path.mkdir(parents=True)
    metrics, shown = test_with(tmp_path, KINDS[name]())
    assert metrics == {"test/value": 1.5}
    assert not shown
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "not written" in line]
    assert line.startswith(f"{path} not written: ")
    assert not path.is_file()
    if path.parent.is_dir():
        assert [file for file in path.parent.iterdir() if file.is_file()] == []  # no half of one either


@pytest.mark.parametrize("name", KINDS)
def test_what_can_be_written_is_there_and_handed_on(tmp_path, capsys, name):
    metrics, shown = test_with(tmp_path, KINDS[name]())
    assert metrics == {"test/value": 1.5}
    assert bool(shown) == name.endswith(".png")
    assert (tmp_path / name).stat().st_size > 10
    assert "not written" not in capsys.readouterr().err


def test_contents_are_replaced_whole(tmp_path):
    content = np.random.default_rng(0).bytes(5000)
    assert write_or_say(tmp_path / "a" / "b", b"old")
    assert write_or_say(tmp_path / "a" / "b", content)
    assert (tmp_path / "a" / "b").read_bytes() == content
