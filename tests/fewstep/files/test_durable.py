"""Folders that are replaced as a whole: the old one or the new one, whatever happens in between."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep.files.durable import replacing_folder
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[3]


def contents(folder):
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def fill(folder, text):
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "weights").write_text(text)
    (folder / "config").write_text(text)


def test_a_new_folder_takes_the_place_and_what_it_lacks_stays(tmp_path):
    with replacing_folder(tmp_path / "export") as partial:
        fill(partial, "old")
    (tmp_path / "export" / "unet" / "notes").write_text("mine")
    with replacing_folder(tmp_path / "export") as partial:
        fill(partial, "new")
        assert contents(tmp_path / "export") == {"unet/weights": "old", "config": "old", "unet/notes": "mine"}
    assert contents(tmp_path / "export") == {"unet/weights": "new", "config": "new", "unet/notes": "mine"}
    assert os.listdir(tmp_path) == ["export"]


def test_a_link_stays_a_link(tmp_path):
    fill(tmp_path / "place", "old")
    (tmp_path / "export").symlink_to("place")
    with replacing_folder(tmp_path / "export") as partial:
        fill(partial, "new")
    assert os.readlink(tmp_path / "export") == "place"
    assert set(contents(tmp_path / "place").values()) == {"new"}


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path):
    fill(tmp_path / "export", "old")

    def breaks_off():
        with replacing_folder(tmp_path / "export") as partial:
            fill(partial, "new")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        breaks_off()
    assert set(contents(tmp_path / "export").values()) == {"old"}
    assert os.listdir(tmp_path) == ["export"]


def test_a_kill_leaves_the_old_folder_whole(tmp_path):
    fill(tmp_path / "export", "old")
    code = f"""
import os, signal, pathlib
from fewstep.files.durable import replacing_folder
with replacing_folder(pathlib.Path({str(tmp_path / "export")!r})) as partial:
    partial.mkdir()
    (partial / "config").write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=PATIENCE)
    assert done.returncode == -signal.SIGKILL
    assert contents(tmp_path / "export") == {"unet/weights": "old", "config": "old"}
