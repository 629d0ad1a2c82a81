"""Avatars: node on fake packages, npm, and what is said when a tool is missing."""

import io
import json
import re
import shutil
import sys
import tarfile
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest

from datamodules.prepare import avatar_drawing, avatars
from datamodules.prepare.__main__ import main
from datamodules.prepare.npm_packages import Package, package_files

FAKE_CORE = b"""export const createAvatar = (style, options) => style.draw(options);"""


FAKE_STYLE = (
    b"""export const draw = (options) => `<svg xmlns="http://www.w3.org/2000/svg">${options.skinColor}</svg>`;"""
)


def write_package(folder, package, files):
    """A .tgz as `npm pack` makes it."""
    files = {"package.json": json.dumps({"name": package.name, "version": package.version}).encode(), **files}
    with tarfile.open(folder / package.archive, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def fake_dicebear(tmp_path):
    for package, code in ((avatar_drawing.CORE, FAKE_CORE), (Package("@dicebear/pixel-art", "9.4.3"), FAKE_STYLE)):
        about = {"name": package.name, "version": package.version, "type": "module", "exports": "./lib/index.js"}
        write_package(tmp_path, package, {"package.json": json.dumps(about).encode(), "lib/index.js": code})
    return tmp_path


@pytest.mark.skipif(not shutil.which("node"), reason="needs node")
def test_node_draws_from_the_packages(fake_dicebear):
    with avatar_drawing.Avatars("pixel-art", str(fake_dicebear)) as drawn:
        folder = Path(drawn.folder.name)
        assert (
            drawn.svg({"skinColor": ["a'\"`\n</svg>"]})
            == """<svg xmlns="http://www.w3.org/2000/svg">a'"`\n</svg></svg>"""
        )
        assert ">b<" in drawn.svg({"skinColor": ["b"]})
    assert drawn.node.returncode == 0
    assert not folder.exists()


def test_missing_tools_are_one_line(tmp_path, fake_dicebear, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    command = ["avatars", "--out", str(tmp_path / "a"), "--packages", str(fake_dicebear), "--num", "100"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "pip install resvg-py" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("a*"))  # nothing was begun
    monkeypatch.setitem(sys.modules, "resvg_py", ModuleType("resvg_py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["avatars", "--out", str(tmp_path / "b"), "--packages", str(fake_dicebear)]) == 2
    assert "node is not installed" in capsys.readouterr().err


def test_a_missing_npm_says_what_to_place_where(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(
        ValueError, match=r"npm is not installed.* place dicebear-core-9\.4\.3\.tgz in a folder.*--packages"
    ):
        package_files(avatar_drawing.CORE, None, r"(lib/.*)")


def test_a_failing_npm_is_one_line(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'E404 not here' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"could not fetch openmoji@17\.0\.0 \(E404 not here\)"):
        package_files(Package("openmoji", "17.0.0"), None, "(.*)")


def test_packages_are_read_safely(tmp_path):
    package = Package("odd", "1.0.0")
    write_package(tmp_path, package, {"../../evil.txt": b"x", "a.txt": b"fine"})
    with tarfile.open(tmp_path / package.archive, "r:gz") as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    link = tarfile.TarInfo("package/b.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / package.archive, "w:gz") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
        tar.addfile(link)
    assert package_files(package, str(tmp_path), r"([a-z]\.txt)") == {"a.txt": b"fine"}
    assert [file.name for file in tmp_path.iterdir()] == [package.archive]
    (tmp_path / package.archive).rename(tmp_path / "odd-2.0.0.tgz")
    with pytest.raises(ValueError, match=r"is version 1\.0\.0; this command needs odd 2"):
        package_files(Package("odd", "2.0.0"), str(tmp_path), r"([a-z]\.txt)")
    whole = (tmp_path / "odd-2.0.0.tgz").read_bytes()
    (tmp_path / package.archive).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a readable npm package"):
        package_files(package, str(tmp_path), r"([a-z]\.txt)")


@pytest.mark.parametrize("num", [10**12, 1_000_001, 9, 0, -1])
def test_how_many_is_asked_before_anything_is_listed(tmp_path, monkeypatch, capsys, num):
    monkeypatch.setattr(avatars, "scenes_of", pytest.fail)  # the keys are not begun
    assert main(["avatars", "--out", str(tmp_path / "a"), "--num", str(num)]) == 2
    assert f"--num {num} --size 64: expected 10 to 1,000,000 pairs" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("seed", [0, 1])
def test_so_few_pairs_that_a_split_is_empty_are_one_line(tmp_path, capsys, seed):
    """The number it names is the smallest that fills all: one less is refused, too."""
    words = ["avatars", "--out", str(tmp_path / "a"), "--seed", str(seed), "--num"]
    assert main([*words, "10"]) == 2
    error = capsys.readouterr().err
    found = re.fullmatch(r"error: --num 10 leaves no pair for ([\w ]+); give (\d+) or more\n", error)
    assert found is not None, error
    enough = int(found[2])
    splits = [scene.split for _, scene in islice(avatars.scenes_of("pixel-art", str(seed), 1), enough)]
    assert set(splits) == {"train", "val", "test"} != set(splits[:-1])
    assert not (tmp_path / "a").exists()


def test_a_size_that_networks_cannot_halve_is_one_line(tmp_path, capsys):
    assert main(["avatars", "--out", str(tmp_path / "a"), "--size", "65"]) == 2
    assert capsys.readouterr().err.startswith("error: --size 65: give a multiple of 8, such as 64")


@pytest.mark.parametrize("persons", [0, 5])
def test_scenes_of_other_numbers_are_refused(tmp_path, capsys, persons):
    assert main(["avatars", "--out", str(tmp_path / "a"), "--persons", str(persons)]) == 2
    assert capsys.readouterr().err == f"error: --persons {persons}: expected 1 to 4\n"
