"""The command that takes a few edit pairs out of a split, and the ones that are committed."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.prepare.__main__ import main
from datamodules.prepare.examples import Edit, choose, edits

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "assets" / "avatar_examples"


def edit(key, changed):
    return Edit(key, torch.zeros(3, 1, 1, dtype=torch.uint8), f"{key} before", f"{key} after", changed)


@pytest.fixture(scope="module")
def split():
    return list(edits(str(ROOT / "data" / "avatars64"), "test", 64))


def test_every_kind_once_before_any_twice():
    kinds = ["hat", "skin", "hat", "hat", "shirt", "shirt"]
    found = [edit(key, kind) for key, kind in zip("abcdef", kinds, strict=True)]
    assert [one.key for one in choose(found, 3)] == ["a", "e", "b"]  # three hats, two shirts, one skin
    assert [one.key for one in choose(found, 6)] == ["a", "e", "b", "c", "f", "d"]
    for num in (2, 7):
        with pytest.raises(ValueError, match=f"--num {num}: there are 6 edits of 3 kinds"):
            choose(found, num)


def test_the_command_writes_the_committed_bytes(tmp_path, monkeypatch):
    (command,) = (line for line in (COMMITTED / "README.md").read_text().splitlines() if "datamodules.prepare" in line)
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    arguments = command.split()[3:]
    assert main(arguments) == 0
    written = tmp_path / "assets" / "avatar_examples"
    content = {file.name: file.read_bytes() for file in written.iterdir()}
    assert content == {file.name: file.read_bytes() for file in COMMITTED.iterdir()}
    assert main(arguments) == 2  # nothing is replaced
    assert [file.name for file in written.parent.iterdir()] == ["avatar_examples"]


def test_the_committed_examples_are_of_every_kind_and_small(split):
    pairs = {f"{one.key}.webp": one for one in split}
    entries = json.loads((COMMITTED / "examples.json").read_text())
    chosen = [pairs[entry["image"]] for entry in entries]
    assert len(entries) == 8
    assert set(Counter(one.changed for one in chosen)) == {one.changed for one in split}
    for entry, one in zip(entries, chosen, strict=True):
        shown = np.asarray(Image.open(COMMITTED / entry["image"]).convert("RGB"))
        assert (shown == one.image.permute(1, 2, 0).numpy()).all()
        assert (entry["source"], entry["target"]) == (one.source, one.target)
    assert sum(file.stat().st_size for file in COMMITTED.iterdir()) < 10_000


def test_what_is_there_stays(tmp_path, capsys):
    (tmp_path / "note.txt").write_text("mine")
    assert main(["examples", "--data", str(ROOT / "data" / "avatars64"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} already holds files; move them away, or name another\n"
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]
