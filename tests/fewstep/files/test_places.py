"""Where nothing can be written is said before the work, in one line."""

from pathlib import Path

import pytest

from fewstep.files.places import require_local_folder


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("folder").mkdir()
    Path("link").symlink_to("folder")
    Path("dangling").symlink_to("gone")


@pytest.mark.parametrize("good", ["new", "new/deep/er", "folder", "folder/new", "a:b", "./x", "C:new"])
def test_folders_that_are_or_can_be_made(good):
    require_local_folder(Path(good))
    require_local_folder(Path(good).absolute())
    assert sorted(path.name for path in Path().iterdir()) == ["dangling", "file", "folder", "link"]


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ("s3://bucket/x", "is an address; write to a folder here"),
        ("https://host/x", "is an address"),
        ("hf://datasets/x", "is an address"),
        ("file", "is a file"),
        ("file/sub", "file is no folder"),
        ("file/sub/deep", "file is no folder"),
        ("dangling", "is a link to gone; name that folder itself"),
        ("dangling/sub", "dangling is no folder"),
        ("link", "is a link to folder"),
        ("/dev/null/x", "/dev/null is no folder"),
        ("/proc/x", "nothing can be written in /proc"),
        ("/sys/kernel/x", "nothing can be written in /sys"),
    ],
)
def test_others_are_refused(bad, fault):
    with pytest.raises(ValueError, match=fault) as error:
        require_local_folder(Path(bad))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("--out ")
