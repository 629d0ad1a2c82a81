"""Files that are no checkpoint, and checkpoints that are damaged, are one line each."""

import zipfile

import pytest
import torch

from callbacks import AtomicCheckpointIO
from callbacks.checkpoints.reading import read_checkpoint, require_training_state

STATE = {"state_dict": {"w": torch.arange(5000.0)}, "global_step": 3}


def zipped(path, compression: int) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("word/document.xml", b"a" * 1000)


FOREIGN = {
    "empty": (lambda p: p.write_bytes(b""), "it is empty"),
    "text": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1"), "no archive of torch.save"),
    "keras": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "an HDF5 file, as Keras"),
    "safetensors": (
        lambda p: p.write_bytes((2).to_bytes(8, "little") + b"{}"),
        "safetensors file, which holds weights",
    ),
    "pickle": (lambda p: torch.save({}, p, _use_new_zipfile_serialization=False), "a bare pickle"),
    "document": (lambda p: zipped(p, zipfile.ZIP_DEFLATED), "word/document.xml is compressed"),
    "archive": (lambda p: zipped(p, zipfile.ZIP_STORED), "cannot be read"),
    "script": (lambda p: torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), p), "cannot be read"),
    "bare weights": (lambda p: torch.save(torch.nn.Linear(1, 1).state_dict(), p), "no state_dict, only 2 bare weights"),
    "other framework": (
        lambda p: torch.save({"model": {}, "optimizer": {}, "step": 3, "rng": 0}, p),
        "no state_dict; its keys are model, optimizer, step; name a file that a run has written",
    ),
    "tensor": (lambda p: torch.save(torch.ones(2), p), "it holds one Tensor"),
    "odd state_dict": (lambda p: torch.save({"state_dict": [1]}, p), "its state_dict is a list"),
    "folder": (lambda p: p.mkdir(), "is a folder; name a .ckpt file"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", FOREIGN)
def test_another_file_is_named_in_one_line(tmp_path, kind):
    make, expected = FOREIGN[kind]
    path = tmp_path / "x.ckpt"
    make(path)
    for lazily in (False, True):
        with pytest.raises(ValueError, match=expected) as caught:
            read_checkpoint(path, lazily=lazily)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_checkpoint(tmp_path / "x.ckpt")


def test_a_flipped_bit_anywhere_in_the_weights_is_found(tmp_path):
    path = tmp_path / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint(STATE, path)
    content = path.read_bytes()
    start = content.index(STATE["state_dict"]["w"].numpy().tobytes())
    for place in range(start, start + 20_000, 997):
        path.write_bytes(content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"the checksum of its member \S+/data/0 is wrong"):
            read_checkpoint(path)
        torch.load(path, weights_only=True)  # why it is done here: torch does not notice


def test_weights_only_checkpoints_cannot_be_continued():
    with pytest.raises(ValueError, match="holds no optimizer_states: it has weights only"):
        require_training_state({"state_dict": {}, "loops": {}, "global_step": 0})
