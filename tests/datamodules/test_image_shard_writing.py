"""Writing image folders: what is written is read, an interrupted build goes on, nothing that was there is lost."""

import fcntl
import json
import os
import signal
import time
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from datamodules.bad_sample import BadSample
from datamodules.image_folder import open_images
from datamodules.prepare.image_shard_writing import Samples, write_image_folder
from tests.forks import Fork
from tests.patience import PATIENCE

ABOUT = {"name": "toy", "license": "CC0-1.0", "command": "none", "notes": {"source": "made up"}}
KEYS = [f"k{i:02d}" for i in range(10)]


def render(key: str) -> dict[str, bytes]:
    if key == "k04":
        raise BadSample("empty_caption", "nothing in it")
    return {"webp": key.encode() * 9, "edited.webp": b"other", "json": b"{}"}


def write(out: Path, make=render, keys=KEYS, **options):
    splits = {"train": Samples(keys, make), "val": Samples(["v"], make)}
    return write_image_folder(str(out), splits, ABOUT, samples_per_shard=3, progress=False, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_plain_webdataset_reads_the_same_samples(tmp_path):
    from webdataset import WebDataset

    index = write(tmp_path / "toy", texts={"README.md": "# Toy\n"})
    files = [str(tmp_path / "toy" / shard["file"]) for shard in index["splits"]["train"]["shards"]]
    read = {s["__key__"]: {k: v for k, v in s.items() if k[0] != "_"} for s in WebDataset(files, shardshuffle=False)}
    assert read == {key: render(key) for key in KEYS if key != "k04"}
    opened = open_images(str(tmp_path / "toy"), "train", verify=True)
    assert [opened.key(i) for i in range(len(opened))] == list(read)


def test_wids_reads_the_same_samples_at_any_place(tmp_path):
    from wids import ShardListDataset

    index = write(tmp_path / "toy")
    shards = index["splits"]["train"]["shards"]
    listed = [{"url": str(tmp_path / "toy" / shard["file"]), "nsamples": shard["samples"]} for shard in shards]
    read = ShardListDataset(listed, cache_dir=str(tmp_path / "cache"), transformations=lambda sample: sample)
    assert len(read) == index["splits"]["train"]["samples"]
    for row in (8, 0, 5, 3):
        fields = {name[1:]: value.read() for name, value in read[row].items() if name[0] == "."}
        assert fields == render(read[row]["__key__"])
    assert [read[row]["__key__"] for row in range(len(read))] == [key for key in KEYS if key != "k04"]


def test_the_index_says_what_is_there_and_what_was_left_out(tmp_path):
    index = write(tmp_path / "toy", texts={"README.md": "# Toy\n"})
    assert json.loads((tmp_path / "toy" / "index.json").read_text()) == index
    assert (index["schema"], index["kind"], index["image_size"]) == (1, "images", None)
    assert index["notes"] == {"source": "made up", "skipped": {"empty_caption": {"count": 1, "keys": ["k04"]}}}
    assert [shard["samples"] for shard in index["splits"]["train"]["shards"]] == [3, 2, 3, 1]
    assert index["splits"]["train"]["samples"] == 9
    files = {
        shard[name] for split in index["splits"].values() for shard in split["shards"] for name in ("file", "offsets")
    }
    assert set(contents(tmp_path / "toy")) == {*files, "index.json", "README.md"}
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_the_same_samples_give_the_same_bytes(tmp_path):
    write(tmp_path / "one")
    write(tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("stop", [0, 1, 3, 6, 9])
def test_an_interrupted_build_goes_on_after_its_last_shard(tmp_path, stop):
    write(tmp_path / "whole")
    rendered = []

    def interrupted(key):
        if len(rendered) == stop:
            raise KeyboardInterrupt
        rendered.append(key)
        return render(key)

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "toy", interrupted)
    assert not (tmp_path / "toy").exists()
    again = []
    write(tmp_path / "toy", lambda key: again.append(key) or render(key))
    assert again == [*KEYS, "v"][stop // 3 * 3 :]
    assert contents(tmp_path / "toy") == contents(tmp_path / "whole")
    assert not (tmp_path / "toy.partial").exists()


def test_a_killed_build_goes_on(tmp_path):
    build = Fork("tests.datamodules.toy_build", [str(tmp_path / "toy")], tmp_path / "first")
    deadline = time.monotonic() + PATIENCE
    while "k30\n" not in (build.text() if build.output.exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(build.pid, signal.SIGKILL)
    assert build.wait() == -signal.SIGKILL
    finished = len(list((tmp_path / "toy.partial").glob("*.done.json")))
    assert 6 <= finished < 15
    again = Fork("tests.datamodules.toy_build", [str(tmp_path / "toy")], tmp_path / "second")
    assert again.wait() == 0
    assert again.text().split() == [f"k{i:02d}" for i in range(4 * finished, 60)]
    opened = open_images(str(tmp_path / "toy"), "train", verify=True)
    assert [opened.key(i) for i in range(len(opened))] == [f"k{i:02d}" for i in range(60)]


def interrupt(out: Path, after: int = 5, **options) -> None:
    count = []

    def make(key):
        count.append(key)
        if len(count) > after:
            raise KeyboardInterrupt
        return render(key)

    with pytest.raises(KeyboardInterrupt):
        write(out, make, **options)


def test_the_rest_of_another_build_is_not_continued(tmp_path):
    interrupt(tmp_path / "toy")
    before = contents(tmp_path / "toy.partial")
    with pytest.raises(ValueError, match=r"toy\.partial is left of a build with other samples"):
        write(tmp_path / "toy", keys=KEYS[::-1])
    assert contents(tmp_path / "toy.partial") == before
    (tmp_path / "mine.partial").mkdir()
    (tmp_path / "mine.partial" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"mine\.partial"):
        write(tmp_path / "mine")
    assert (tmp_path / "mine.partial" / "thesis.txt").read_text() == "precious"


def test_a_finished_shard_that_changed_is_noticed(tmp_path):
    interrupt(tmp_path / "toy")
    file = tmp_path / "toy.partial" / "train-000000.tar"
    content = bytearray(file.read_bytes())
    content[513] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-000000\.tar has changed .* delete"):
        write(tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


def test_two_builds_do_not_write_into_one_folder(tmp_path):
    (tmp_path / "toy.partial").mkdir()
    handle = os.open(tmp_path / "toy.partial", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="another process"):
        write(tmp_path / "toy")
    os.close(handle)
    write(tmp_path / "toy")


def test_nothing_is_overwritten_unasked(tmp_path):
    write(tmp_path / "toy")
    before = contents(tmp_path / "toy")
    with pytest.raises(ValueError, match="--overwrite"):
        write(tmp_path / "toy", keys=["a"])
    assert contents(tmp_path / "toy") == before
    write(tmp_path / "toy", keys=["a"], overwrite=True)
    assert len(open_images(str(tmp_path / "toy"), "train")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_a_shard_of_bad_samples_only_is_left_out(tmp_path):
    def make(key):
        if key in KEYS[3:6]:
            raise BadSample("not_an_image")
        return {"webp": b"x"}

    index = write(tmp_path / "toy", make)
    files = [shard["file"] for shard in index["splits"]["train"]["shards"]]
    assert files == ["train-000000.tar", "train-000002.tar", "train-000003.tar"]
    assert not (tmp_path / "toy" / "train-000001.tar").exists()

    def worse(key):
        raise BadSample("too_large")

    with pytest.raises(ValueError, match="'train': no sample can be used; too_large"):
        write(tmp_path / "none", worse)


def test_a_split_after_the_first_may_end_empty(tmp_path):
    def make(key):
        if key == "v":
            raise BadSample("not_an_image")
        return {"webp": b"x"}

    index = write(tmp_path / "toy", make)
    assert (list(index["splits"]), index["notes"]["skipped"]["not_an_image"]["keys"]) == (["train"], ["v"])
    assert not list((tmp_path / "toy").glob("val*"))


def fields(**values):
    return lambda key: {name.replace("_DOT_", "."): value for name, value in values.items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": ["a.b"]}, "key 'a.b'"),
        ({"keys": ["../a"]}, r"key '\.\./a'"),
        ({"keys": ["a", "b", "a"]}, "key 'a' occurs twice"),
        ({"keys": ["k" * 513]}, "more than 512"),
        ({"keys": []}, "'train' has no samples"),
        ({"make": fields(JPG=b"")}, "field 'JPG'"),
        ({"make": fields(_hidden=b"")}, "field '_hidden'"),
        ({"make": fields(a_DOT__DOT_b=b"")}, r"field 'a\.\.b'"),
        ({"make": fields(txt="text")}, "and bytes"),
        ({"make": fields()}, "no fields"),
    ],
)
def test_what_readers_would_misread_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        write(tmp_path / "toy", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "toy").exists()


def test_progress_is_a_plain_line_when_nobody_watches(tmp_path, capsys, monkeypatch):
    from datamodules.prepare import build_progress

    seconds = count()
    monkeypatch.setattr(build_progress, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    splits = {"train": Samples(KEYS, lambda key: {"txt": b"x"})}
    write_image_folder(str(tmp_path / "toy"), splits, ABOUT)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) < 10
    assert lines[0].startswith("toy: ")
    assert "of 10 samples" in lines[0]


def test_overwriting_replaces_what_was_built_with_what_lies_beside_it(tmp_path):
    out = tmp_path / "toy"
    write(out, texts={"README.md": "# Toy\n"})
    for name in ("NOTICE", "plan.json", "train-000000.done.json", "train-000003.tar.tmp"):  # of a build cut off late
        (out / name).write_text("{}")
    write(out, keys=KEYS[:2], overwrite=True)
    assert set(contents(out)) == {
        *(f"{split}-000000.{end}" for split in ("train", "val") for end in ("tar", "offsets.npz")),
        "index.json",
    }


@pytest.mark.parametrize(
    "stranger", ["thesis.tex", "photos/a.jpg", "sheet.png", "other.tar", ".git/HEAD", "index.json.bak"]
)
def test_overwriting_leaves_a_folder_with_anything_else_alone(tmp_path, stranger):
    out = tmp_path / "toy"
    write(out)
    (out / stranger).parent.mkdir(exist_ok=True)
    (out / stranger).write_text("precious")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=stranger.partition("/")[0]) as caught:
        write(out, overwrite=True)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


@pytest.mark.parametrize(
    "content", ['{"name": "my web site"}', "[]", "no json", '{"splits": {}}', '{"schema": 1, "splits": []}']
)
def test_overwriting_leaves_a_folder_with_another_index_alone(tmp_path, content):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "index.json").write_text(content)
    with pytest.raises(ValueError, match="leaves the folder alone"):
        write(tmp_path / "web", overwrite=True)
    assert contents(tmp_path / "web") == {"index.json": content.encode()}


def test_what_comes_into_the_folder_during_a_build_is_not_deleted(tmp_path):
    out = tmp_path / "toy"

    def meddled(key):
        out.mkdir(exist_ok=True)
        (out / "note").write_text("mine")
        return render(key)

    with pytest.raises(ValueError, match="already holds files"):
        write(out, meddled)
    assert contents(out) == {"note": b"mine"}
    (out / "note").unlink()
    write(out, lambda key: pytest.fail("nothing was lost"))


def test_a_link_stays_one_and_its_folder_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    write(tmp_path / "disk" / "real")
    (tmp_path / "toy").symlink_to("disk/real")
    write(tmp_path / "toy", keys=KEYS[:2], overwrite=True)
    assert (tmp_path / "toy").is_symlink()
    assert len(open_images(str(tmp_path / "disk" / "real"), "train")) == 2
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real"]


@pytest.mark.parametrize(
    "place", ["file/x", "file/x/y", "dangling", "dangling/x", "/proc/x", "/dev/null/x", "a" * 254, ".."]
)
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_made(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises((ValueError, OSError)) as caught:
        write(tmp_path / place, lambda key: pytest.fail("rendered"))
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file"]


@pytest.mark.parametrize("change", ["content", "time", "one more", "one less", "nothing"])
def test_an_interrupted_build_does_not_go_on_with_changed_sources(tmp_path, change):
    folder = tmp_path / "sources"
    folder.mkdir()
    for name in "ab":
        (folder / name).write_text(name)

    interrupt(tmp_path / "toy", sources=[folder])
    {
        "nothing": lambda: None,
        "content": lambda: (folder / "a").write_text("longer"),
        "time": lambda: os.utime(folder / "a", ns=(1, 1)),
        "one more": lambda: (folder / "c").write_text(""),
        "one less": lambda: (folder / "b").unlink(),
    }[change]()
    refused = pytest.raises(ValueError, match="sources have changed since; delete it")
    with nullcontext() if change == "nothing" else refused:
        write(tmp_path / "toy", sources=[folder])
