"""Shards are untrusted: whatever they hold, nothing runs, nothing is written, and memory stays bounded."""

import io
import os
import pickle
import resource
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from datamodules import ImageTextDataModule
from datamodules.bad_sample import BadSample
from datamodules.npy_decoding import decode_npy
from tests.datamodules.picture_shards import sample

SUFFIXES = ("pkl", "pickle", "pyd", "pth", "pt", "json.gz", "pkl.gz", "npy", "latent.npy", "cls", "py", "sh")


class Payload:
    """Unpickling it creates the file CANARY in the working directory."""

    def __reduce__(self):
        return os.system, ("touch CANARY",)


def huge_png(side: int) -> bytes:
    """A valid header that promises side x side pixels, and hardly any data."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def object_npy() -> bytes:
    content = io.BytesIO()
    np.save(content, np.array([Payload()], dtype=object), allow_pickle=True)
    return content.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **fields) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """40 good samples, each with payloads beside it, and the worst that a tar can name."""
    monkeypatch.chdir(tmp_path)
    payload = pickle.dumps(Payload())
    with tarfile.open(tmp_path / "train-000000.tar", "w") as tar:
        for number in range(40):
            for suffix, content in sample(number).items():
                add(tar, f"{number:05d}.{suffix}", content)
            for suffix in SUFFIXES:
                add(tar, f"{number:05d}.{suffix}", object_npy() if suffix.endswith("npy") else payload)
        for name in ("../../escape", "/tmp/escape", "pipe:touch CANARY"):
            for suffix, content in sample(41).items():
                add(tar, f"{name}.{suffix}", content)
        add(tar, "link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "link.txt", b"a link")
        add(tar, "hard.png", type=tarfile.LNKTYPE, linkname="00000.png")
        add(tar, "hard.txt", b"a hard link")
        add(tar, "device.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5)
        add(tar, "device.txt", b"/dev/zero")
        for side in (50_000, 9000):
            for suffix, content in (sample(42) | {"png": huge_png(side)}).items():
                add(tar, f"bomb{side}.{suffix}", content)
    return tmp_path


def test_nothing_runs_nothing_is_written_and_memory_stays_bounded(hostile):
    before = sorted(hostile.rglob("*"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = ImageTextDataModule(str(hostile), 8, 8, steps_per_epoch=40, num_workers=0, max_skipped=1.0)
    data.prepare_data()
    data.setup("fit")
    keys = {key for batch in data.train_dataloader() for key in batch["key"]}
    assert {f"{n:05d}" for n in range(40)} <= keys
    assert keys.isdisjoint({"link", "device", "bomb50000", "bomb9000"})
    assert "hard" in keys  # its picture is 00000.png of this archive
    assert set(data.skipped.counts) == {"missing_image", "too_large", "damaged_tar"}
    assert sorted(hostile.rglob("*")) == before
    assert not Path("/tmp/escape.png").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000  # KiB; the larger bomb has 7.5 GB


def test_an_array_that_holds_objects_is_a_bad_sample(hostile):
    data = ImageTextDataModule(str(hostile), 8, 8, steps_per_epoch=4, num_workers=0, max_skipped=1.0, arrays=["latent"])
    data.setup("fit")
    with pytest.raises(ValueError, match="unusable samples in a row"):
        list(data.train_dataloader())
    assert decode_error(object_npy()) == "bad_array"
    assert not (hostile / "CANARY").exists()


def decode_error(content: bytes) -> str:
    with pytest.raises(BadSample) as caught:
        decode_npy(content)
    return caught.value.kind


@pytest.mark.parametrize("url", ["pipe:touch CANARY", "ssh://host/a.tar", "file:///etc::x.tar", "pipe:cat a.tar |"])
def test_no_address_starts_a_shell(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    for sampling in ("exact", "resampled"):
        data = ImageTextDataModule(url, 8, sampling=sampling, steps_per_epoch=1, num_workers=0)
        with pytest.raises(ValueError, match="refusing"):
            data.prepare_data()
    assert list(tmp_path.iterdir()) == []
