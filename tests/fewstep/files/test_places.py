"""Where nothing can be written is said before the work, in one line."""

import errno
import os
from pathlib import Path

import pytest

from fewstep.files.places import require_writable


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("folder").mkdir()
    Path("link").symlink_to("folder")
    Path("dangling").symlink_to("gone")
    Path("loop").symlink_to("loop")


@pytest.mark.parametrize(
    "good", ["new", "new/deep/er", "folder", "folder/new", "link", "link/x", "a:b", "./x", "C:new", "b" * 255]
)
def test_folders_that_are_or_can_be_made(good):
    require_writable(Path(good))
    require_writable(Path(good).absolute())
    assert sorted(path.name for path in Path().iterdir()) == ["dangling", "file", "folder", "link", "loop"]


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ("s3://bucket/x", "is an address; name a place on this machine"),
        ("https://host/x", "is an address"),
        ("hf://datasets/x", "is an address"),
        ("file", "is a file"),
        ("file/sub", "file is a file"),
        ("file/sub/deep", "file is a file"),
        ("dangling", "is a link to nothing"),
        ("dangling/sub", "dangling is a link to nothing"),
        ("loop", "loop is a link to nothing"),
        ("b" * 256, r"nothing can be written there \(File name too long\)"),
        ("new/" + "b" * 256 + "/x", r"nothing can be written there \(File name too long\)"),
        ("/dev/null/x", "/dev/null is no folder"),
        ("/proc/x", "nothing can be written there"),
        ("/sys/kernel/x", "nothing can be written there"),
    ],
)
def test_others_are_refused(bad, fault):
    with pytest.raises(ValueError, match=fault) as error:
        require_writable(Path(bad))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("--out ")
    assert sorted(path.name for path in Path().iterdir()) == ["dangling", "file", "folder", "link", "loop"]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_what_the_system_says_when_it_is_tried_is_passed_on(monkeypatch, code):
    def refused(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "mkdir", refused)
    with pytest.raises(ValueError, match=os.strerror(code)) as error:
        require_writable(Path("folder/new"))
    assert "\n" not in str(error.value)
