"""Names of shards: splits by any usual word, hidden files, and an index that can name whatever it accepts."""

import itertools
import unicodedata
from pathlib import Path

import pytest

from datamodules import ImageTextDataModule
from datamodules.image_folder import open_images
from datamodules.image_options import Splits
from datamodules.image_splits import ImageSplits
from datamodules.prepare.__main__ import main
from datamodules.sample_index import scan_shard
from datamodules.shard_names import WORDS, is_plain_name, matching, splits_by_name
from datamodules.shard_sources import splits
from fewstep.files.local_paths import local_path
from tests.datamodules.picture_shards import sample, write_tar

SCENES = str(Path(__file__).parents[2] / "data" / "avatar_scenes64")
FORMS = ("{}-0.tar", "{}.tar", "x-{}-000.tar", "x_{}_000.tar", "set.{}.tar", "{}2017-0.tar", "my{}7.tar", "{}/0.tar")


@pytest.mark.parametrize("form", FORMS)
def test_any_word_in_any_case_and_place_is_its_split(form):
    for word, case in itertools.product(WORDS["val"], (str.lower, str.capitalize, str.upper)):
        own, train = (case(word), case("train")) if "my" not in form else (word.capitalize(), "Train")
        found = splits_by_name([form.format(train), form.format(own)])
        assert (matching("train", found), matching("val", found)) == ("train", word), (form, word)


def test_names_without_a_word_are_all_trained_on_and_those_beside_one_are_not_read():
    assert splits_by_name(["00000.tar", "valley.tar", "interval-1.tar"]) == ["train"] * 3
    assert splits_by_name(["train-0.tar", "extra.tar", "train_easy-0.tar"]) == ["train", "extra", "train_easy"]
    with pytest.raises(ValueError, match="'val' may be 'dev' or 'eval'; name one"):
        matching("val", ["train", "dev", "eval"])
    assert matching("val", ["val", "dev"]) == "val"


def test_what_is_not_read_is_said(tmp_path):
    for name in ("train-0.tar", "extra.tar", "._train-0.tar", ".hidden.tar"):
        write_tar(tmp_path / name, {"a": sample(1)})
    write_tar(tmp_path / "more" / "0.tar", {"a": sample(1)})
    (tmp_path / "old.tar.gz").write_bytes(b"")
    parts = ImageSplits(str(tmp_path), Splits())
    lines = parts.notices()
    assert splits(str(tmp_path)) == ["extra", "train"]
    assert "nothing is validated" in lines[0]
    assert "split 'extra' is not read: 'extra.tar'" in lines[1]
    assert lines[2].endswith("not read are 'old.tar.gz', 'more/'")
    write_tar(tmp_path / "extra.tar", {}).rename(tmp_path / "Validation.tar")
    assert len(parts.notices()) == 1  # only what lies beside the shards


NAMES = ["a b.tar", "a.b.tar", "a_b.tar", "A_B.tar", "50%.tar", "a%20b.tar", "x#1.tar", "x?.tar", "(1).tar", "-n.tar"]
NAMES += [
    "it's.tar",
    "x=1&y.tar",
    "ガ.tar",
    unicodedata.normalize("NFD", "ガé.tar"),
    "UPPER.TAR",
    "UPPER.tar",
    "[1].tar",
]


def test_what_can_be_indexed_is_read_again(tmp_path):
    for number, name in enumerate(NAMES):
        write_tar(tmp_path / name, {f"k{number}": sample(number)})
    assert main(["index", str(tmp_path)]) == 0
    index = open_images(str(tmp_path), "train", verify=True)
    assert sorted(index.key(row) for row in range(len(index))) == sorted(f"k{n}" for n in range(len(NAMES)))
    assert len(list(tmp_path.glob("*.offsets.npz"))) == len(NAMES)


@pytest.mark.parametrize("name", ["a\nb.tar", "a\\b.tar", "a*.tar", "a\tb.tar"])
def test_what_cannot_be_named_is_refused_and_nothing_is_written(name, tmp_path, capsys):
    for other in ("0.tar", name):
        write_tar(tmp_path / other, {"k": sample(1)})
    (tmp_path / "index.json").write_text("mine")
    assert main(["index", str(tmp_path), "--overwrite"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "index.json").read_text() == "mine"
    assert not list(tmp_path.glob("*.npz"))
    assert not is_plain_name(name, ".tar")


def test_an_index_cannot_name_what_lies_elsewhere():
    for name in ("../a.tar", "/a.tar", ".a.tar", "..tar", "a/b.tar", "a" * 252 + ".tar", "a\0.tar", "a.txt", None, 1):
        assert not is_plain_name(name, ".tar")


def test_members_in_two_normal_forms_are_one_sample(tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    members = sample(1)
    write_tar(tmp_path / "0.tar", {apart: {"png": members["png"]}, composed: {"txt": members["txt"]}, "z": sample(2)})
    index, faults = scan_shard(str(tmp_path / "0.tar"))
    assert ([index.key(row) for row in range(2)], faults) == ([apart, "z"], [])
    assert index.span(0, "txt") is not None


def test_local_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "exp:1 é"
    write_tar(folder / "0.tar", {"k": sample(1)})
    quoted = str(folder).replace(" ", "%20")
    apart = unicodedata.normalize("NFD", folder.name)
    spellings = [folder.name, f"./{folder.name}", f"{folder.name}/0.tar", f"~/{folder.name}", apart, str(folder)]
    spellings += [f"file://{quoted}", f"file://localhost{quoted}", f"file:{quoted}", f"FILE://{folder}"]
    for spelling in spellings:
        assert len(open_images(spelling, "train")) == 1, spelling
    assert local_path("s3://b/~") == "s3://b/~"
    for wrong in ("file://server/share", "C:\\data"):
        with pytest.raises(ValueError, match=r"three slashes|path of Windows"):
            local_path(wrong)


@pytest.mark.parametrize(
    ("size", "crop", "kept"),
    [(64, "center", "50%"), ((32, 128), "random", "50%"), ((64, 128), "center", None), ((32, 64), "center", None),
     (64, "none", None), ((64, 120), "center", None)],
)  # fmt: skip
def test_pictures_that_lose_their_sides_are_said(size, crop, kept):
    lines = ImageSplits(SCENES, Splits()).cut_away(size, crop)
    assert len(lines) == (kept is not None)
    if kept:
        assert f"keeps {kept} of pictures of 64 x 128; for all of them give data.image_size [64, 128]" in lines[0]


def test_a_training_says_what_its_crop_leaves_out(caplog):
    ImageTextDataModule(SCENES, image_size=64, num_workers=0).setup("fit")
    assert "keeps 50% of pictures of 64 x 128" in caplog.text
