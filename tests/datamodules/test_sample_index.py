"""The sample index: WebDataset's own grouping, faults of naming, and offsets files that cannot be trusted."""

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from datamodules.sample_index import SampleIndex, read_offsets, scan_shard, write_offsets


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> str:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def contents(index: SampleIndex) -> dict[str, dict[str, bytes]]:
    """{key: {field: content}}, read by the spans."""
    found = {}
    for row in range(len(index)):
        sample = found[index.key(row)] = {}
        for name in index.fields:
            if span := index.span(row, name):
                path, offset, size = span
                sample[name] = Path(path).read_bytes()[offset : offset + size]
    return found


@pytest.fixture
def shard(tmp_path):
    members = [
        (f"d.1/{i}.{suffix}", f"{i}{suffix}".encode() * i) for i in range(5) for suffix in ("jpg", "Txt", "v.npy")
    ]
    return write_tar(tmp_path / "a.tar", [*members, ("d.1/5.jpg", b"alone"), ("README", b"no"), ("d.2/.hidden", b"no")])


def test_samples_are_those_of_webdataset(shard):
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    with open(shard, "rb") as file:
        files = [{**entry, "__url__": ""} for entry in tar_file_iterator(file)]
    expected = {s["__key__"]: {k: v for k, v in s.items() if not k.startswith("__")} for s in group_by_keys(files)}
    index, faults = scan_shard(shard)
    assert contents(index) == expected
    assert faults == index.faults == []
    assert index.span(5, "txt") is None
    assert index.span(0, "nothing") is None


def test_neighbours_or_not_members_of_a_key_belong_together(tmp_path):
    names = [f"{key}.{suffix}" for suffix in ("jpg", "txt") for key in "abc"]
    index, faults = scan_shard(write_tar(tmp_path / "a.tar", [(name, name.encode()) for name in names]))
    assert contents(index) == {key: {"jpg": f"{key}.jpg".encode(), "txt": f"{key}.txt".encode()} for key in "abc"}
    assert faults == []


def test_of_two_samples_with_one_key_the_first_is_kept_whole(tmp_path):
    members = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"of the second"), ("a.jpg", b"3"), ("c.jpg", b"4")]
    index, faults = scan_shard(write_tar(tmp_path / "a.tar", members))
    assert contents(index) == {"a": {"jpg": b"1"}, "b": {"jpg": b"2"}, "c": {"jpg": b"4"}}
    assert faults == [f"{tmp_path}/a.tar: key 'a' occurs again at byte 2560; the first sample is kept"]


def test_of_two_fields_with_one_name_the_first_is_kept(tmp_path):
    index, faults = scan_shard(write_tar(tmp_path / "a.tar", [("a.jpg", b"1"), ("a.JPG", b"2"), ("a.txt", b"3")]))
    assert contents(index) == {"a": {"jpg": b"1", "txt": b"3"}}
    assert len(faults) == 1
    assert "field 'jpg' of 'a' occurs again" in faults[0]


def test_a_damaged_tail_leaves_the_samples_before_it(shard):
    whole = contents(scan_shard(shard)[0])
    raw = Path(shard).read_bytes()
    Path(shard).write_bytes(raw[: scan_shard(shard)[0].span(3, "txt")[1] + 1])
    index, faults = scan_shard(shard)
    assert contents(index) == {key: whole[key] for key in list(whole)[:3]} | {"d.1/3": {"jpg": whole["d.1/3"]["jpg"]}}
    assert len(faults) == 1
    assert faults[0].startswith(f"{shard}: ")
    assert "byte" in faults[0]
    Path(shard).write_bytes(b"")
    assert scan_shard(shard)[1] == [f"{shard}: empty file"]
    assert len(scan_shard(shard)[0]) == 0


def test_hostile_names_cannot_make_the_index_large(tmp_path):
    long = write_tar(tmp_path / "long.tar", [("k" * 100_000 + ".jpg", b"1"), ("a.jpg", b"2")])
    index, faults = scan_shard(long)
    assert (index.keys.itemsize, len(index)) == (1, 1)
    assert "100000 bytes" in faults[0]
    dotted = write_tar(tmp_path / "dotted.tar", [(f"photo.{i}.jpg", b"1") for i in range(1000)])
    index, faults = scan_shard(dotted)
    assert len(index.fields) == 64
    assert len(faults) == 101
    assert "keys cannot hold dots" in faults[0]
    assert all(len(fault) < 300 for fault in faults)
    with pytest.raises(ValueError, match="different field names"):
        SampleIndex.concatenate([index, scan_shard(write_tar(tmp_path / "b.tar", [("a.other", b"")]))[0]])


def test_indexes_join_select_and_travel(shard, tmp_path):
    other = write_tar(
        tmp_path / "b.tar", [("x.jpg", b"x"), ("x.longest.field.json", b"{}"), ("a-longer-key.jpg", b"y")]
    )
    parts = [scan_shard(path)[0] for path in (shard, other)]
    index = pickle.loads(pickle.dumps(SampleIndex.concatenate(parts)))
    assert contents(index) == contents(parts[0]) | contents(parts[1])
    assert index.shard.tolist() == [0] * 6 + [1] * 2
    chosen = index.select(np.array([7, 0, 7]))
    assert [chosen.key(i) for i in range(3)] == ["a-longer-key", "d.1/0", "a-longer-key"]
    assert chosen.span(0, "jpg") == index.span(7, "jpg")
    assert len(SampleIndex.concatenate([])) == 0


def equal(a: SampleIndex, b: SampleIndex) -> bool:
    spans = a.fields.keys() == b.fields.keys() and all(np.array_equal(a.fields[n], b.fields[n]) for n in a.fields)
    return spans and a.paths == b.paths and a.keys.tolist() == b.keys.tolist() and a.shard.tolist() == b.shard.tolist()


def test_offsets_come_back_and_are_always_the_same_bytes(shard, tmp_path):
    index = scan_shard(shard)[0]
    for name in ("one.npz", "two.npz"):
        write_offsets(str(tmp_path / name), index)
        assert equal(read_offsets(str(tmp_path / name), shard), index)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "one.npz", "two.npz"]
    empty = scan_shard(write_tar(tmp_path / "empty.tar", []))[0]
    write_offsets(str(tmp_path / "empty.npz"), empty)
    assert equal(read_offsets(str(tmp_path / "empty.npz"), empty.paths[0]), empty)


def test_damaged_or_foreign_offsets_are_one_line_or_the_truth(shard, tmp_path):
    index, file = scan_shard(shard)[0], tmp_path / "a.npz"
    write_offsets(str(file), index)
    content = file.read_bytes()
    variants = [content[:cut] for cut in range(0, len(content), 17)]
    variants += [content[:i] + bytes([content[i] ^ 0xFF]) + content[i + 1 :] for i in range(0, len(content), 3)]
    refused = set()
    for variant in variants:
        file.write_bytes(variant)
        try:
            assert equal(read_offsets(str(file), shard), index)  # some bytes of a zip carry no meaning
        except ValueError as error:
            refused.add(str(error))
    assert len(refused) > 1
    assert all(line.startswith(f"{file}: not ") and "\n" not in line for line in refused)
    file.write_bytes(content)
    with pytest.raises(ValueError, match="not the offsets of"):
        read_offsets(str(file), write_tar(tmp_path / "b.tar", [("a.jpg", b"x" * 99_999)]))


class Canary:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("hostile", ["pickle", "outside", "negative", "overflow", "bomb", "shape", "names"])
def test_hostile_offsets_do_nothing(shard, tmp_path, hostile):
    size, canary = Path(shard).stat().st_size, tmp_path / "canary"
    arrays = {"header": np.array([1, size]), "keys": np.array([b"a"]), "names": np.array([b"jpg"])}
    arrays["spans"] = np.array([[[512, 5]]])
    if hostile == "pickle":
        arrays["keys"] = np.array([Canary(canary)], dtype=object)
    elif hostile == "names":
        arrays["names"] = np.array([b"\xff"])
    elif hostile != "shape":
        spans = {"outside": (size, 1), "negative": (-5, 10), "overflow": (1 << 62, 1 << 62), "bomb": (512, 5)}
        arrays["spans"][0, 0] = spans[hostile]
    if hostile == "bomb":
        arrays["keys"] = np.zeros(1 << 22, "S4")  # 16 MiB of zeros, which a zip holds in 16 KiB
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    if hostile == "shape":
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
            for name in arrays:
                content = io.BytesIO()
                np.lib.format.write_array_header_1_0(
                    content, {"descr": "<i8", "fortran_order": False, "shape": (1 << 50, 2, 2)}
                )
                file.writestr(f"{name}.npy", content.getvalue())
    with pytest.raises(ValueError, match=r"a\.npz: not "):
        read_offsets(str(tmp_path / "a.npz"), shard)
    assert not canary.exists()


def test_only_a_whole_shard_is_kept(shard, tmp_path):
    index = scan_shard(shard)[0]
    with pytest.raises(ValueError, match="one shard"):
        write_offsets(str(tmp_path / "a.npz"), SampleIndex.concatenate([index, index]))
    index.faults.append("cut short")
    with pytest.raises(ValueError, match="without faults"):
        write_offsets(str(tmp_path / "a.npz"), index)
