"""Checkpoints made to run code: nothing runs, wherever the code hides and wherever the file lies."""

import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import fsspec
import pytest
import torch
from lightning.fabric.utilities.load import _lazy_load

from callbacks import AtomicCheckpointIO
from callbacks.checkpoints.newest_checkpoint import newest_checkpoint
from callbacks.checkpoints.reading import read_checkpoint

WHOLE = {
    "state_dict": {"w": torch.zeros(3)},
    "callbacks": {},
    "loops": {"fit_loop": {}},
    "optimizer_states": [],
    "lr_schedulers": [],
    "global_step": 1,
    "epoch": 0,
    "pytorch-lightning_version": "2.6.6",
}


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.canary}",)


def saved(content: object, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def with_member(archive: bytes, name: str, content: bytes, replace: bool) -> bytes:
    """The archive with one member added, or with data.pkl replaced by it under a new folder name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.namelist():
            if not (replace and member.endswith("data.pkl")):
                new.writestr(member, old.read(member))
        new.writestr(f"{old.namelist()[0].split('/')[0]}/{name}", content)
    return buffer.getvalue()


def hostile(kind: str, canary: Path) -> bytes:
    evil = Evil(canary)
    match kind:
        case "top":
            return saved({**WHOLE, "evil": evil})
        case "callbacks":
            return saved({**WHOLE, "callbacks": {"EMA": {"average": {"w": evil}}}})
        case "hyper_parameters":
            return saved({**WHOLE, "hyper_parameters": {"net": evil}})
        case "replaced member":
            return with_member(saved(WHOLE), "data.pkl", pickle.dumps({**WHOLE, "evil": evil}, protocol=2), True)
        case "script member":  # torch.load hands archives with constants.pkl to torch.jit.load
            return with_member(saved(WHOLE), "constants.pkl", pickle.dumps(evil), False)
        case "bare pickle":
            return pickle.dumps({**WHOLE, "evil": evil})
        case _:
            return saved({**WHOLE, "evil": evil}, _use_new_zipfile_serialization=False)


KINDS = ["top", "callbacks", "hyper_parameters", "replaced member", "script member", "bare pickle", "legacy"]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("remote", [False, True])
def test_nothing_runs(tmp_path, canary, kind, remote):
    content = hostile(kind, canary)
    path = f"memory://{tmp_path.name}/evil.ckpt" if remote else str(tmp_path / "evil.ckpt")
    with fsspec.open(path, "wb") as file:
        file.write(content)
    for lazily in (False, True):
        with pytest.raises(ValueError, match=r"evil\.ckpt cannot be read") as caught:
            read_checkpoint(path, lazily=lazily)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="cannot be read"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)  # what a caller asks for does not matter
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["top", "bare pickle"])
def test_the_canary_is_alive(tmp_path, canary, kind):
    """Without the protection it does run."""
    content = hostile(kind, canary)
    pickle.loads(content) if kind == "bare pickle" else torch.load(io.BytesIO(content), weights_only=False)
    assert canary.exists()


def test_lightnings_reader_for_split_models_would_run_it(tmp_path, canary):
    """FSDPStrategy loads full checkpoints this way: why every resume reads the file through read_checkpoint first."""
    (tmp_path / "evil.ckpt").write_bytes(hostile("top", canary))
    _lazy_load(tmp_path / "evil.ckpt")
    assert canary.exists()


def test_auto_passes_over_hostile_files(tmp_path, canary, capsys):
    folder = tmp_path / "checkpoints"
    AtomicCheckpointIO().save_checkpoint(WHOLE, folder / "best.ckpt")
    for kind in KINDS:
        (folder / f"{kind}.ckpt").write_bytes(hostile(kind, canary))
    assert newest_checkpoint([folder]) == folder / "best.ckpt"
    assert capsys.readouterr().err.count("skipped checkpoint") == len(KINDS)
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["top", "callbacks"])
def test_resume_refuses_it_in_one_line(fit, capsys, canary, kind):
    assert fit("--run_dir", "run", "--trainer.max_steps", "2") == 0
    before = sorted(Path().rglob("*"))
    Path("evil.ckpt").write_bytes(hostile(kind, canary.absolute()))
    shutil.copy("run/checkpoints/last.ckpt", "copy.ckpt")
    capsys.readouterr()
    assert fit("--run_dir", "new", "--resume", "evil.ckpt") == 2
    err = capsys.readouterr().err
    assert "asks for posix.system, and only tensors and plain values are ever loaded" in err
    assert err.count("\n") == 1
    assert not canary.exists()
    assert sorted(Path().rglob("*")) == sorted([*before, Path("evil.ckpt"), Path("copy.ckpt")])


def test_weights_of_whole_numbers_are_refused_before_a_step(fit, capsys):
    assert fit("--run_dir", "run", "--trainer.max_steps", "2") == 0
    stored = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    stored["state_dict"] = {name: weight.to(torch.int8) for name, weight in stored["state_dict"].items()}
    torch.save(stored, "whole.ckpt")
    capsys.readouterr()
    assert fit("--run_dir", "new", "--resume", "whole.ckpt") == 2
    err = capsys.readouterr().err
    assert "is of torch.int8, the model's of torch.float32" in err
    assert err.count("\n") == 1
