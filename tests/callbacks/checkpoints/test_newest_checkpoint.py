"""Which checkpoint `--resume auto` takes."""

import errno
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from callbacks import AtomicCheckpointIO
from callbacks.checkpoints import reading
from callbacks.checkpoints.newest_checkpoint import newest_checkpoint


def whole(step: int, value: float = 1.0) -> dict:
    weights = {"w": torch.full((2000,), value), "count": torch.tensor(3), "bare": torch.empty(0)}
    return {
        "state_dict": weights,
        "global_step": step,
        "pytorch-lightning_version": "2.6.6",
        "callbacks": {},
        "loops": {"fit_loop": {}},
        "optimizer_states": [],
        "lr_schedulers": [],
    }


@pytest.fixture
def run(tmp_path):
    """best.ckpt of step 10, last-1.ckpt of step 20, last.ckpt of step 30."""
    io = AtomicCheckpointIO()
    for name, step in (("best", 10), ("last", 20), ("last", 30)):
        io.save_checkpoint(whole(step), tmp_path / "checkpoints" / f"{name}.ckpt")
    return tmp_path


def chosen(run) -> str | None:
    found = newest_checkpoint([run / "checkpoints"])
    return found and found.name


def test_the_last_that_was_written(run):
    assert chosen(run) == "last.ckpt"


def test_a_copy_with_other_times_is_the_same_run(run, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(run, copy, copy_function=shutil.copyfile)
    for age, name in enumerate(("best", "last-1", "last")):
        os.utime(copy / "checkpoints" / f"{name}.ckpt", (1e9 - age, 1e9 - age))
    assert chosen(copy) == "last.ckpt"


def flip(path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4000] + bytes([content[4000] ^ 1]) + content[4001:])


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-300]), "its end is missing"),
        (flip, "the checksum of its member"),
        (lambda p: AtomicCheckpointIO(keep_previous=()).save_checkpoint(whole(40, torch.nan), p), "weights hold NaN"),
        (lambda p: torch.save({"w": torch.zeros(1)}, p), "is not a Lightning checkpoint"),
        (lambda p: torch.save({"state_dict": {}}, p), "it has weights only"),
    ],
)
def test_a_broken_one_is_passed_over_in_one_line(run, capsys, harm, said):
    harm(run / "checkpoints" / "last.ckpt")
    assert chosen(run) == "last-1.ckpt"
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("skipped ")
    assert err.count("\n") == 1


def test_sparse_weights_are_taken_as_they_are(run):
    """A graph's adjacency, say."""
    stored = whole(40)
    stored["state_dict"]["edges"] = torch.eye(3).to_sparse()
    AtomicCheckpointIO(keep_previous=()).save_checkpoint(stored, run / "checkpoints" / "last.ckpt")
    assert chosen(run) == "last.ckpt"


def test_a_constant_that_is_nan_does_not_send_a_run_back_to_the_beginning(run, capsys):
    for name in ("best", "last-1", "last"):
        path = run / "checkpoints" / f"{name}.ckpt"
        stored = torch.load(path, weights_only=True)
        stored["state_dict"]["mask"] = torch.tensor([0.0, torch.nan])
        torch.save(stored, path)
    assert chosen(run) == "last.ckpt"
    assert capsys.readouterr().err.count("hold NaN") == 3


def test_nothing_there(tmp_path):
    assert chosen(tmp_path) is None


def spoil_all(run, harm) -> None:
    for path in (run / "checkpoints").iterdir():
        harm(path)


@pytest.mark.parametrize(
    "harm",
    [
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2].ljust(p.stat().st_size, b"\0")),
        lambda p: p.write_bytes(bytes(reversed(p.read_bytes()))),
        flip,
        lambda p: torch.save({"state_dict": {}}, p),  # weights only
    ],
)
def test_where_none_is_of_use_nothing_begins_anew(run, capsys, harm):
    spoil_all(run, harm)
    with pytest.raises(ValueError, match="begin anew, which would replace them, choose another --run_dir") as error:
        chosen(run)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().err.count("skipped ") == 3


def test_several_folders_are_one_run(run, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    AtomicCheckpointIO().save_checkpoint(whole(40), other / "last.ckpt")
    assert newest_checkpoint([run / "checkpoints", other]) == other / "last.ckpt"
    assert newest_checkpoint([other / "absent", run / "checkpoints"]) == run / "checkpoints" / "last.ckpt"
    spoil_all(run, lambda p: p.write_bytes(b""))
    assert newest_checkpoint([run / "checkpoints", other]) == other / "last.ckpt"


def fails(*_, code: int, **__) -> None:
    raise OSError(code, os.strerror(code))


def hides(*_, code: int, **__) -> None:
    """As zipfile does."""
    try:
        fails(code=code)
    except OSError:
        raise zipfile.BadZipFile("File is not a zip file")  # noqa: B904


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ETIMEDOUT])
@pytest.mark.parametrize(
    ("place", "name", "how"),
    [(reading.torch, "load", fails), (reading.os, "stat", fails), (reading.zipfile, "ZipFile", hides)],
)
def test_a_disk_that_does_not_answer_is_no_damage(run, monkeypatch, capsys, place, name, how, code):
    files = sorted((run / "checkpoints").iterdir())
    folder = [run / "checkpoints"]
    with monkeypatch.context() as patch:
        patch.setattr(place, name, lambda *_, **__: how(code=code))
        with pytest.raises(OSError, match="does not mean that it is damaged") as error:
            newest_checkpoint(folder)
    assert error.value.errno == code
    assert str(files[0].parent) in str(error.value)
    assert "skipped" not in capsys.readouterr().err


def test_what_torch_hides_is_read_once_more(run):
    """Reading the start of a process's own memory is an input/output error of the kernel's."""
    if not Path("/proc/self/mem").exists():
        pytest.skip("this system has no file that cannot be read")
    (run / "checkpoints" / "last.ckpt").unlink()
    (run / "checkpoints" / "last.ckpt").symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match="does not mean that it is damaged"):
        chosen(run)


def test_numbers_of_a_damaged_file_may_ask_for_the_impossible(run, monkeypatch):
    monkeypatch.setattr(reading.torch, "load", lambda *_, **__: fails(code=errno.EINVAL))
    with pytest.raises(ValueError, match="begin anew"):
        chosen(run)


def test_links_to_what_is_away_are_named(run):
    (run / "checkpoints" / "last.ckpt").unlink()
    (run / "checkpoints" / "last.ckpt").symlink_to("/away/last.ckpt")
    with pytest.raises(FileNotFoundError, match=r"last\.ckpt is a link to /away/last\.ckpt, which is not there"):
        chosen(run)
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").symlink_to("/away")
    with pytest.raises(ValueError, match="checkpoints is a link to /away, which is not there"):
        chosen(run)
    (run / "checkpoints").unlink()
    (run / "checkpoints").touch()
    with pytest.raises(ValueError, match="checkpoints is no folder"):
        chosen(run)
