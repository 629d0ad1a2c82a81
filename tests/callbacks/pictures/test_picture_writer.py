import resource
import signal

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from callbacks import PictureWriter


class Echo(LightningModule):
    """Gives back what the batch says."""

    def predict_step(self, batch, batch_idx):
        return batch["output"]


def grey(*levels):
    return torch.tensor(levels, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 4, 6)


def batch(keys, levels, weight=None, **more):
    weight = torch.ones(len(keys)) if weight is None else torch.tensor(weight)
    return {"key": keys, "weight": weight, "output": {"image": grey(*levels)}} | more


def predict(run, batches, **options):
    writer = PictureWriter(**options)
    trainer = Trainer(
        default_root_dir=run, callbacks=[writer], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.predict(Echo(), torch.utils.data.DataLoader(batches, batch_size=None), return_predictions=False)
    return sorted(path.relative_to(run).as_posix() for path in run.rglob("*.png"))


def level(path):
    values = set(np.asarray(Image.open(path)).flatten().tolist())
    return values.pop() if len(values) == 1 else values


def test_every_counted_picture_is_a_file(tmp_path, capsys):
    found = predict(tmp_path, [batch(["a", "b"], [-1, 1]), batch(["c", "a"], [0.5, -1], [1.0, 0.0])])
    assert found == [f"predictions/{name}.png" for name in ("a", "b", "c", "sheet")]
    assert [level(tmp_path / name) for name in found[:3]] == [0, 255, 191]
    out = capsys.readouterr().out
    assert f"pictures  3 in {tmp_path}/predictions" in out
    assert f"sheet     {tmp_path}/predictions/sheet.png" in out


def test_no_file_is_overwritten(tmp_path):
    for brightness in (-1, 1):
        found = predict(tmp_path, [batch(["a", "a"], [brightness, 0])])
    assert found == [f"predictions/{name}.png" for name in ("a-2", "a-3", "a-4", "a", "sheet-2", "sheet")]
    levels = [level(tmp_path / f"predictions/a{number}.png") for number in ("", "-2", "-3", "-4")]
    assert levels == [0, 128, 255, 128]


def test_a_key_cannot_leave_the_folder(tmp_path):
    found = predict(tmp_path / "run", [batch(["../../x", "/etc/y", ".hidden"], [0, 0, 0])], sheet=0)
    assert found == ["predictions/etc-y.png", "predictions/hidden.png", "predictions/x.png"]
    assert len(list(tmp_path.rglob("*.png"))) == 3


def test_the_sheet_shows_source_and_edited(tmp_path):
    more = {"image": grey(-1.0, -0.5), "caption": ["a cat", "a red cat"], "target": ["a dog", "a <b>"]}
    found = predict(tmp_path, [batch(["a", "b"], [1.0, 0.5], **more)], folder=str(tmp_path / "there"))
    assert found == [f"there/{name}.png" for name in ("a", "b", "sheet")]
    sheet = np.asarray(Image.open(tmp_path / "there" / "sheet.png").convert("L"))
    enlarged = [(sheet == level).sum() for level in (0, 64, 191)]  # two sources and an edit; the other edit is white
    assert min(enlarged) >= 112 * 168


def test_no_more_pictures_on_the_sheet_than_asked_for(tmp_path):
    sizes = []
    for number in (1, 3):
        folder = tmp_path / str(number)
        predict(folder, [batch(["a", "b"], [0, 0]), batch(["c"], [0])], sheet=number, columns=9)
        sizes.append(Image.open(folder / "predictions" / "sheet.png").width)
    assert sizes[1] > 2.5 * sizes[0]


def test_a_step_without_pictures_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="the predict_step of Echo returns no dict with `image`"):
        predict(tmp_path, [batch(["a"], [0]) | {"output": {"score": torch.zeros(1)}}])
    with pytest.raises(ValueError, match=r"sheet=-1, columns=6: give 0 or more"):
        PictureWriter(sheet=-1)


def test_pictures_that_cannot_be_written_end_the_run_with_one_line(tmp_path, monkeypatch):
    (tmp_path / "predictions").write_text("mine")
    with pytest.raises(OSError, match="predictions") as caught:
        predict(tmp_path, [batch(["a"], [0])])
    assert caught.value.line.startswith(f"{tmp_path}/predictions/a.png not written: ")
    assert "\n" not in caught.value.line


def test_a_full_disk_leaves_no_half_of_a_picture(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    noise = torch.rand(1, 3, 99, 99)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            predict(tmp_path, [batch(["a", "b"], [0, 0]), batch(["c"], [0]) | {"output": {"image": noise}}], sheet=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert caught.value.line.startswith(f"{tmp_path}/predictions/c.png not written: ")
    assert sorted(file.name for file in (tmp_path / "predictions").iterdir()) == ["a.png", "b.png"]
