"""`check` and training follow one rule, over odd shards: what is sound is read whole, and what is left out is named."""

import io
import json
import os
import random
import tarfile

import numpy as np
import pytest

from datamodules import ImageTextDataModule
from datamodules.image_folder import open_images
from datamodules.image_samples import ImageSamples, SampleDecoder
from datamodules.image_transforms import ImageTransform
from datamodules.prepare.__main__ import main
from datamodules.prepare.image_check import check_images
from datamodules.sample_index import SampleIndex
from datamodules.sample_pictures import IMAGE_SUFFIXES, several_pictures
from tests.datamodules.picture_shards import picture, sample, write_tar
from tests.datamodules.test_tar_links import packed

PICTURES = {form: picture(3, suffix=form) for form in ("png", "jpg", "webp", "gif", "bmp")}
ODD = {
    **{form: {"png": None, form: content} for form, content in PICTURES.items()},
    "two": {"jpg": PICTURES["jpg"]},
    "upper": {"png": None, "PNG": PICTURES["png"]},
    "named": {"png": None, "v1.png": PICTURES["png"]},
    "cut": {"png": PICTURES["png"][:40]},
    "first bad": {"jpg": b"no picture"},
    "other": {"png": None, "tiff": b"II*\0"},
    "no words": {"txt": None},
    "empty words": {"txt": b"  "},
    "latin": {"txt": b"caf\xe9"},
    "bad json": {"json": b"{"},
    "list": {"json": b"[1]"},
    "captions": {"json": b'{"captions": ["a", 1]}'},
    "empty": {"png": b""},
}


def both(folder) -> tuple[set[str], set[str], list[str]]:
    """The keys that training leaves out, those that check names, and its faults."""
    report = check_images(str(folder))
    index = open_images(str(folder), "train")
    samples = ImageSamples(index, SampleDecoder(ImageTransform(8)), replace=False)
    faults = []
    for row in range(len(index)):  # one by one: a batch without any good sample has no shapes
        samples._sample(0, row, faults)
    return {where for _, where, _ in faults}, {where for _, where, _ in report.unreadable}, report.faults


@pytest.mark.parametrize("seed", range(25))
def test_both_leave_out_the_same_samples(seed, tmp_path):
    draw = random.Random(seed)
    chosen = draw.choices([*ODD], k=draw.randint(1, 6))
    write_tar(tmp_path / "0.tar", {f"k{n}": _fields(ODD[name]) for n, name in enumerate(chosen)})
    left_out, named, faults = both(tmp_path)
    assert left_out == named, chosen
    assert faults == []


def _fields(changes: dict) -> dict[str, bytes]:
    members = {**sample(1), **changes}
    return {name: content for name, content in members.items() if content is not None}


def test_links_are_pictures_for_both(tmp_path):
    members = [("a.png", tarfile.REGTYPE, PICTURES["png"]), ("b.png", tarfile.SYMTYPE, "a.png")]
    words = [(f"{key}.txt", tarfile.REGTYPE, b"words") for key in "abc"]
    (tmp_path / "0.tar").write_bytes(packed([*members, ("c.png", tarfile.SYMTYPE, "/etc/passwd"), *words]))
    left_out, named, faults = both(tmp_path)
    assert left_out == named == {"0.tar:c"}
    assert "outside the archive" in faults[0]


def test_what_cannot_be_opened_is_no_sound_folder(tmp_path):
    write_tar(tmp_path / "train-0.tar", {})
    assert check_images(str(tmp_path)).faults == ["split 'train' holds no samples"]
    with pytest.raises(ValueError, match="holds no samples"):
        open_images(str(tmp_path), "train")
    for shard in range(3):
        fields = {f"f{shard}x{n}.txt": b"" for n in range(25)}
        write_tar(tmp_path / f"train-{shard}.tar", {"k": sample(shard) | fields})
    assert "different field names" in check_images(str(tmp_path)).faults[0]
    with pytest.raises(ValueError, match="different field names"):
        open_images(str(tmp_path), "train")


def test_arrays_are_read_too(tmp_path):
    write_tar(tmp_path / "0.tar", {"a": sample(1, z_npy=_npy(np.zeros(3))), "b": sample(2, z_npy=_npy(np.zeros(4)))})
    write_tar(tmp_path / "1.tar", {"c": sample(3, z_npy=b"no array")})
    assert [where for _, where, _ in check_images(str(tmp_path)).unreadable] == ["0.tar:b", "1.tar:c"]


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def three(folder, capsys, caplog) -> list[list[str]]:
    """What `index`, `check` and the opening of a training print about a folder, in this order."""
    said = []
    for command in ("index", "check"):
        main([command, str(folder)])
        (folder / "index.json").unlink(missing_ok=True)
        said.append([line for text in capsys.readouterr() for line in text.splitlines()])
    caplog.clear()
    try:
        ImageTextDataModule(str(folder), image_size=8, num_workers=0).setup("fit")
        said.append(caplog.messages)
    except ValueError as error:
        said.append([str(error)])
    return said


@pytest.mark.parametrize("name", ["x.tar", "train-1.tar", "VAL.TAR"])
@pytest.mark.parametrize("full", [True, False])
def test_a_folder_called_like_a_shard_is_named_by_all_in_one_wording(tmp_path, capsys, caplog, name, full):
    write_tar(tmp_path / "train-0.tar", {"k": sample(1)})
    write_tar(tmp_path / name / "train-0.tar", {"k": sample(1)}) if full else (tmp_path / name).mkdir()
    for lines in three(tmp_path, capsys, caplog):
        assert f"{tmp_path}: not read are '{name}/'" in lines
        assert not any("fault" in line or "error" in line for line in lines)
    assert json.loads((tmp_path / "index.json").read_text()) if main(["index", str(tmp_path)]) == 0 else False


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_file_is_refused_by_all_in_one_wording(tmp_path, capsys, caplog, kind):
    write_tar(tmp_path / "train-0.tar", {"k": sample(1)})
    odd = tmp_path / "train-1.tar"
    odd.symlink_to("../away.tar") if kind == "link" else os.mkfifo(odd)
    why = (
        "a link to '../away.tar', which is not there; copy the file itself" if kind == "link" else "a device or a pipe"
    )
    for lines in three(tmp_path, capsys, caplog):
        (line,) = [line for line in lines if str(odd) in line]
        assert f"{odd}: {why}" in line
        assert "Errno" not in line


@pytest.mark.parametrize("members", [{}, {"README": b"no sample"}])
def test_a_split_without_samples_is_refused_by_all_in_one_wording(tmp_path, capsys, caplog, members):
    (tmp_path / "train-0.tar").write_bytes(packed([(name, tarfile.REGTYPE, text) for name, text in members.items()]))
    index, check, training = three(tmp_path, capsys, caplog)
    for lines in (index, check, training):
        assert any("split 'train' holds no samples" in line for line in lines)
    assert not any("samples" in line and line.startswith("train:") for line in index)
    assert not (tmp_path / "index.json").exists()


def test_an_empty_shard_among_others_is_indexed(tmp_path, capsys):
    write_tar(tmp_path / "train-0.tar", {})
    write_tar(tmp_path / "train-1.tar", {"k": sample(1)})
    assert main(["index", str(tmp_path)]) == 0
    assert len(open_images(str(tmp_path), "train")) == 1
    assert main(["check", str(tmp_path)]) == 0


def test_one_of_several_pictures_is_not_chosen_in_silence(tmp_path, capsys, caplog):
    jpg, png = PICTURES["jpg"], PICTURES["png"]
    both_edited = {"edited.png": png, "edited.webp": PICTURES["webp"]}
    write_tar(tmp_path / "0.tar", {"a": sample(1), "b": sample(2, jpg=jpg) | both_edited, "c": sample(3, jpg=jpg)})
    write_tar(tmp_path / "1.tar", {"d": sample(4, jpeg=jpg, gif=PICTURES["gif"]), "e": sample(5)})
    assert main(["check", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    order = "of these the first of jpg, jpeg, png, webp, gif, bmp is read"
    assert "train: samples with several pictures: 4, such as 0.tar:b (" in out
    assert order in out
    ImageTextDataModule(str(tmp_path), image_size=8, num_workers=0).setup("fit")
    line = f"samples with several pictures: 3, such as 0.tar:b (jpg, png); {order}"
    assert f"{tmp_path}: split 'train': {line}" in caplog.messages
    caplog.clear()
    ImageTextDataModule(str(tmp_path), image_size=8, num_workers=0, images=["edited"]).setup("fit")
    assert sum("several pictures" in message for message in caplog.messages) == 2
    assert any("such as 0.tar:b (edited.png, edited.webp)" in message for message in caplog.messages)


@pytest.mark.parametrize("seed", range(10))
def test_samples_with_several_pictures_are_counted(seed):
    rng = np.random.default_rng(seed)
    rows, fields = int(rng.integers(0, 30)), [*rng.permutation([*IMAGE_SUFFIXES, "txt", "edited.png"])[:5]]
    spans = {name: np.where(rng.random((rows, 1)) < 0.5, 512, -1).repeat(2, axis=1) for name in fields}
    keys = np.array([f"k{row}".encode() for row in range(rows)], dtype="S4")
    index = SampleIndex(["0.tar"], np.zeros(rows, np.int32), keys, spans)
    counts = [sum(spans[name][row, 0] >= 0 for name in fields if name in IMAGE_SUFFIXES) for row in range(rows)]
    found = several_pictures(index)
    assert found.samples == sum(count > 1 for count in counts)
    if found.samples:
        assert found.first.startswith(f"0.tar:k{next(row for row, count in enumerate(counts) if count > 1)} (")
