"""Latents and prompt states in shards: what they hold, what becomes of broken samples, and going on after a stop."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch

from datamodules import ImageTextDataModule
from datamodules.image_options import Splits
from datamodules.prepare import latents
from datamodules.prepare.__main__ import main
from fewstep.backbones.frozen_encoders import FrozenEncoders
from tests.datamodules.picture_shards import picture, write_folder
from tests.tiny_diffusion import CAPTIONS, write_autoencoder, write_pipeline, write_text_encoder


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return write_autoencoder(folder / "vae"), write_text_encoder(folder / "text")


def captioned(*captions):
    return {"json": json.dumps({"captions": captions}).encode(), "txt": None, "png": picture(7, 16)}


@pytest.fixture
def data(tmp_path):
    """Five samples in train, the third broken, the first with 3 captions; two in val."""
    write_folder(tmp_path / "data", [5], bad={0: captioned(*CAPTIONS[:3]), 2: {"png": b"broken"}})
    return str(write_folder(tmp_path / "data", [2], split="val", first=10))


def arguments(data, parts, out, *more):
    encoders = ["--autoencoder", parts[0], "--text-encoder", parts[1]]
    return ["latents", "--data", data, *encoders, "--size", "16", "--out", str(out), *more]


def test_a_batch_holds_what_the_encoders_make_of_its_pictures(data, parts, tmp_path, capsys):
    assert main(arguments(data, parts, tmp_path / "out")) == 0, capsys.readouterr().err
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert {split: entry["samples"] for split, entry in index["splits"].items()} == {"train": 4, "val": 2}
    assert index["notes"]["skipped"] == {"not_an_image": {"count": 1, "keys": ["00002"]}}
    encoders = FrozenEncoders(*parts)
    assert index["notes"]["latents"] == {"source": data, "captions": 3, **encoders.hashes}

    chosen = {"splits": Splits(val="train"), "arrays": ["latent", "prompt"]}
    module = ImageTextDataModule(str(tmp_path / "out"), 16, eval_batch_size=4, num_workers=0, **chosen)
    module.setup("validate")
    (batch,) = module.val_dataloader()
    batch = module.on_after_batch_transfer(batch, 0)
    assert batch["key"] == ["00000", "00001", "00003", "00004"]
    assert batch["latent"].dtype == batch["prompt"].dtype == torch.float16
    torch.testing.assert_close(batch["latent"].float(), encoders.latents.encode(batch["image"]), rtol=1e-3, atol=1e-3)
    assert batch["caption"] == [CAPTIONS[0], "picture 1", "picture 3", "picture 4"]
    several = [*CAPTIONS[:3], *(f"picture {n}" for n in (1, 3, 4) for _ in range(3))]
    expected = encoders.prompts(several)["prompt"].unflatten(0, (4, 3))
    torch.testing.assert_close(batch["prompt"].float(), expected, rtol=1e-3, atol=1e-3)
    encoders.check_stored(batch)


def test_pipelines_with_a_pooled_prompt_get_a_third_array(data, tmp_path):
    pipeline = write_pipeline(tmp_path / "xl", "sdxl")
    assert main(arguments(data, (pipeline, pipeline), tmp_path / "out")) == 0
    assert "KEY.prompt.npy and KEY.pooled.npy" in (tmp_path / "out" / "README.md").read_text()
    names = ["latent", "prompt", "pooled"]
    module = ImageTextDataModule(str(tmp_path / "out"), 16, eval_batch_size=4, arrays=names, num_workers=0)
    module.setup("validate")
    (batch,) = module.val_dataloader()
    batch, encoders = module.on_after_batch_transfer(batch, 0), FrozenEncoders(pipeline, pipeline)
    encoders.check_stored(batch)
    latents, condition = encoders.read(batch, training=False)
    fresh, expected = encoders.read({name: batch[name] for name in ("image", "caption")}, training=False)
    torch.testing.assert_close(latents, fresh, rtol=1e-3, atol=1e-3)
    for name, value in expected.items():
        torch.testing.assert_close(condition[name], value, rtol=1e-3, atol=1e-3)
    assert main(arguments(data, (pipeline, pipeline), tmp_path / "small", "--size", "8")) == 0
    assert FrozenEncoders(pipeline, pipeline, image_size=8).null_condition["time_ids"][0, 0] == 8


def test_latents_of_rectangles_go_with_pictures_of_that_size(data, parts, tmp_path, capsys):
    """Height x width on the command line, [height, width] in index.json, where the next command finds it."""
    assert main(arguments(data, parts, tmp_path / "out", "--size", "8x16")) == 0, capsys.readouterr().err
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["image_size"] == [8, 16]
    assert "pictures of 8 x 16 (height x width) px" in (tmp_path / "out" / "README.md").read_text()
    encoders, arrays = FrozenEncoders(*parts), {"arrays": ["latent", "prompt"], "eval_batch_size": 2}
    module = ImageTextDataModule(str(tmp_path / "out"), [8, 16], num_workers=0, **arrays)
    module.setup("validate")
    (batch,) = module.val_dataloader()
    batch = module.on_after_batch_transfer(batch, 0)
    assert batch["latent"].shape == (2, 4, 4, 8)
    encoders.check_stored(batch)
    with pytest.raises(ValueError, match="the stored latent of 00010 is not what"):
        encoders.check_stored(batch | {"image": batch["image"].transpose(2, 3)})

    again = arguments(str(tmp_path / "out"), parts, tmp_path / "again")
    again[again.index("--size") : again.index("--size") + 2] = []
    assert main(again) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "again" / "index.json").read_text())["image_size"] == [8, 16]

    (tmp_path / "out" / "index.json").write_text(json.dumps(index | {"image_size": None}))
    assert main([*again[:-1], str(tmp_path / "third")]) == 2
    expected = f"error: {tmp_path / 'out'} does not say how large its pictures are; give --size in pixels, such as 64\n"
    assert capsys.readouterr().err.endswith(expected)
    (tmp_path / "out" / "index.json").write_text(json.dumps(index | {"image_size": [8]}))
    assert main([*again[:-1], str(tmp_path / "third")]) == 2
    assert "out: image_size=[8]: give one whole number from 1" in capsys.readouterr().err


def test_goes_on_after_the_last_whole_shard(data, parts, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert main(arguments(data, parts, out)) == 0
    whole = {file.name: file.read_bytes() for file in out.glob("*.tar")}
    monkeypatch.setattr(latents, "CHUNK", 2)  # other batches: equal up to rounding
    encode, calls = FrozenEncoders.read, []

    def stops(self, batch, training):
        calls.append(len(batch["image"]))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(self, batch, training)

    monkeypatch.setattr(FrozenEncoders, "read", stops)
    again = arguments(data, parts, out, "--overwrite")
    assert main(again) == 130
    assert calls == [2, 1, 1, 2]  # the broken picture leaves its chunk; the last one is of val
    assert main(again) == 0
    assert calls[4:] == [2]
    for name, content in whole.items():
        for ours, theirs in zip(arrays((out / name).read_bytes()), arrays(content), strict=True):
            np.testing.assert_allclose(ours.astype(np.float32), theirs.astype(np.float32), rtol=2e-3, atol=2e-3)


def arrays(content):
    """Every array of a tar, in order."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return [np.load(io.BytesIO(tar.extractfile(member).read())) for member in tar if member.name.endswith(".npy")]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--size", "15"], "multiples of 2"),
        (["--captions", "0"], "--captions 0"),
        (["--autoencoder", "/nothing/here"], "cannot get vae/"),
        (["--data", "/nothing/here"], "/nothing/here: no such file or folder"),
    ],
)
def test_mistakes_are_one_line(more, message, data, parts, tmp_path, capsys):
    assert main(arguments(data, parts, tmp_path / "out", *more)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert message in line
    assert not (tmp_path / "out").exists()


def test_the_size_must_be_known(data, parts, tmp_path, capsys):
    command = arguments(data, parts, tmp_path / "out")
    command[command.index("--size") : command.index("--size") + 2] = []
    assert main(command) == 2
    assert capsys.readouterr().err.endswith(
        " does not say how large its pictures are; give --size in pixels, such as 64\n"
    )
