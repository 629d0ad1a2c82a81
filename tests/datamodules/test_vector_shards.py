"""Shards: what is written is read, damage is noticed, nothing foreign runs."""

import functools
import http.server
import io
import json
import pickle
import re
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from datamodules import remote
from datamodules.prepare import shard_writing
from datamodules.prepare.__main__ import main
from datamodules.prepare.shard_writing import Description, write_folder, write_shard
from datamodules.shard_sources import shards_by_split
from datamodules.tar_shard import read_shard
from datamodules.vector_shards import ShardFolder

ABOUT = Description("toy", "CC0-1.0", "none")


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    pairs = {"x": rng.normal(size=(2500, 3)).astype(np.float32), "y": rng.normal(size=(2500, 2)).astype(np.float32)}
    groups = {
        "x": rng.normal(size=(300, 4, 3)).astype(np.float32),
        "y": rng.normal(size=(300, 4, 2)).astype(np.float32),
    }
    return {"train_paired": pairs, "probe": groups, "train_x": {"x": pairs["x"][:7]}}


@pytest.fixture
def folder(tmp_path, arrays):
    write_folder(str(tmp_path / "toy"), arrays, ABOUT)
    return tmp_path / "toy"


def test_rows_come_back_by_number(folder, arrays):
    shards = ShardFolder(str(folder), verify=True)
    index = np.random.default_rng(1).integers(0, 2500, 4000)
    split = shards.open("train_paired")
    for side in "xy":
        assert np.array_equal(getattr(split, side).take(index), arrays["train_paired"][side][index])
    probe = shards.open("probe")
    assert len(shards.index["splits"]["probe"]["shards"]) == 2  # 300 samples do not fit into one shard
    assert probe.group_sizes.tolist() == [4] * 300
    assert np.array_equal(probe.y.take(np.arange(1200)), arrays["probe"]["y"].reshape(-1, 2))
    assert shards.open("train_x").y is None


def test_a_folder_without_an_index_is_scanned(folder, arrays):
    (folder / "index.json").unlink()
    assert np.array_equal(
        ShardFolder(str(folder)).open("probe").x.take(np.arange(1200)), arrays["probe"]["x"].reshape(-1, 3)
    )


def test_the_same_arrays_give_the_same_bytes(folder, tmp_path, arrays):
    write_folder(str(tmp_path / "again"), arrays, ABOUT)
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_plain_webdataset_reads_the_same_rows(folder, arrays):
    import webdataset

    files = [str(folder / shard["file"]) for shard in ShardFolder(str(folder)).index["splits"]["probe"]["shards"]]
    samples = list(webdataset.WebDataset(files, shardshuffle=False))
    for side in "xy":
        read = [np.load(io.BytesIO(sample[f"{side}.npy"]), allow_pickle=False) for sample in samples]
        assert np.array_equal(np.stack(read), arrays["probe"][side])


@pytest.fixture
def shard(tmp_path):
    rows = np.arange(600, dtype=np.float32).reshape(3, 100, 2)
    write_shard(tmp_path / "val-000000.tar", [(f"k{i}", {"x": a, "y": a + 1}) for i, a in enumerate(rows)])
    return tmp_path / "val-000000.tar"


def rows_of(path: Path) -> list[bytes]:
    return [block.rows.tobytes() for sample in read_shard(path, path.name) for block in sample]


def test_every_truncation_is_noticed(shard, tmp_path):
    content, whole = shard.read_bytes(), rows_of(shard)
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512
    for cut in [*range(0, len(content), 512), end - 100, 700]:
        broken = tmp_path / "cut.tar"
        broken.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"cut\.tar"):
            read_shard(broken, "cut.tar", expected_bytes=len(content))
        if cut < end + 1024:
            with pytest.raises(ValueError, match=r"cut\.tar"):  # also when there is no index to compare with
                read_shard(broken, "cut.tar")
        else:
            assert rows_of(broken) == whole  # only surplus zeros are gone


def test_every_flipped_header_byte_is_noticed_or_harmless(shard, tmp_path):
    content, whole = shard.read_bytes(), rows_of(shard)
    with tarfile.open(shard) as tar:
        headers = [tar.getmembers()[0].offset, tar.getmembers()[-1].offset]
    unnoticed = []
    for position in [header + byte for header in headers for byte in range(512)]:
        flipped = bytearray(content)
        flipped[position] ^= 0xFF
        broken = tmp_path / "flipped.tar"
        broken.write_bytes(flipped)
        try:
            rows = rows_of(broken)
        except ValueError:
            continue
        assert rows == whole
        unnoticed.append(position % 512)
    assert set(unnoticed) <= {155}  # the checksum's padding byte carries no meaning


def test_a_changed_value_is_found_by_verify(folder):
    file = folder / "train_x-000000.tar"
    content = bytearray(file.read_bytes())
    content[512 + 128 + 4] ^= 1  # in the rows themselves, after the tar and .npy headers
    file.write_bytes(content)
    ShardFolder(str(folder)).open("train_x")
    with pytest.raises(ValueError, match="sha256"):
        ShardFolder(str(folder), verify=True).open("train_x")


class Canary:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_foreign_members_and_object_arrays_never_run(tmp_path):
    canary = tmp_path / "canary"
    poison = pickle.dumps(Canary(canary))
    objects = npy(np.array([Canary(canary)], dtype=object))
    good = {"a.x.npy": npy(np.ones((2, 3), np.float32)), "a.y.npy": npy(np.ones((2, 1), np.float32))}
    folder = tmp_path / "hostile"
    folder.mkdir()
    extras = {f"a.{end}": poison for end in ("pkl", "pickle", "pyd", "pth", "pyd.gz", "x.pkl", "json")}
    write_tar(folder / "val-000000.tar", good | extras)
    assert ShardFolder(str(folder)).open("val").x.take([0, 1]).tolist() == [[1.0] * 3] * 2
    assert main(["check", str(folder)]) == 0
    write_tar(folder / "val-000000.tar", good | {"b.x.npy": objects, "b.y.npy": objects})
    with pytest.raises(ValueError, match=r"b\.x\.npy: dtype .O, only real numbers"):
        ShardFolder(str(folder)).open("val")
    assert not canary.exists()
    pickle.loads(poison)
    assert canary.exists()  # the poison works where it is unpickled


@pytest.mark.parametrize(
    "path", ["pipe:cat /etc/passwd", "pipe://x", "ftp://host/x", "simplecache::s3://b/x", "zip::file://x"]
)
def test_other_addresses_are_refused(path):
    with pytest.raises(ValueError, match="refusing") as caught:
        ShardFolder(path)
    assert "\n" not in str(caught.value)


ONE = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.x.npy": npy(ONE), "a.y.npy": npy(ONE[:1])}, "2 rows of x and 1 of y"),
        ({"a.v1.x.npy": npy(ONE)}, "contains a dot"),
        ({"a.x.npy": npy(ONE), "b.x.npy": npy(ONE[:, :2])}, "same dimension"),
        ({"a.x.npy": npy(ONE), "b.y.npy": npy(ONE)}, "x in 1 of 2 samples"),
        ({"a.x.npy": npy(ONE)[:-4]}, "do not hold"),
        ({"a.x.npy": b"not an array"}, "not a plain .npy"),
        ({"a.x.npy": npy(np.array("text"))}, "real numbers"),
        ({"a.x.npy": npy(ONE[:0])}, "not empty"),
        ({"a.jpg": b"picture"}, "not vector shards"),
    ],
)
def test_bad_shards_are_one_line(tmp_path, members, message):
    write_tar(tmp_path / "val-000000.tar", members)
    with pytest.raises(ValueError, match=message) as caught:
        ShardFolder(str(tmp_path)).open("val")
    assert "\n" not in str(caught.value)


def test_a_key_that_occurs_twice_is_refused(tmp_path):
    with tarfile.open(tmp_path / "val-000000.tar", "w") as tar:
        for _ in range(2):
            entry = tarfile.TarInfo("a.x.npy")
            entry.size = len(npy(ONE))
            tar.addfile(entry, io.BytesIO(npy(ONE)))
    with pytest.raises(ValueError, match="twice"):
        ShardFolder(str(tmp_path)).open("val")


def test_one_row_samples_in_float64_or_fortran_order_are_read(tmp_path):
    rows = np.random.default_rng(0).normal(size=(4, 3))
    members = {f"./r{i}.x.npy": npy(row) for i, row in enumerate(rows[:2])} | {
        "./r2.x.npy": npy(np.asfortranarray(rows[2:]))
    }
    write_tar(tmp_path / "val-000000.tar", members)
    assert np.array_equal(ShardFolder(str(tmp_path)).open("val").x.take(np.arange(4)), rows.astype(np.float32))


def test_a_value_that_is_not_finite_names_its_shard_and_key(tmp_path):
    write_tar(tmp_path / "val-000000.tar", {"a.x.npy": npy(ONE), "b.x.npy": npy(ONE * np.inf)})
    split = ShardFolder(str(tmp_path)).open("val")
    split.x.take([0, 1])
    with pytest.raises(ValueError, match=r"val-000000\.tar: b\.x\.npy: NaN"):
        split.x.take([1, 3])


@pytest.mark.parametrize(
    "bad", [{"file": "../val-000000.tar"}, {"file": "/val-000000.tar"}, {"sha256": "../x"}, {"bytes": None}]
)
def test_an_index_cannot_point_elsewhere(folder, bad):
    index = json.loads((folder / "index.json").read_text())
    index["splits"]["train_x"]["shards"][0] |= bad
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index\.json"):
        ShardFolder(str(folder))


def test_check_reports_each_fault_and_fails(folder, capsys):
    assert main(["check", str(folder)]) == 0
    (folder / "probe-000001.tar").write_bytes((folder / "probe-000001.tar").read_bytes()[:-512])
    (folder / "train_x-000000.tar").unlink()
    (folder / "stray-000000.tar").write_bytes(b"")
    capsys.readouterr()
    assert main(["check", str(folder)]) == 1
    faults = capsys.readouterr().err.splitlines()
    assert [fault.split(":")[1].strip().rsplit("/")[-1] for fault in faults] == [
        "probe-000001.tar",
        "train_x-000000.tar",
        "stray-000000.tar",
    ]


def test_overwriting_is_asked_for_and_never_touches_other_folders(folder, arrays, tmp_path):
    before = (folder / "index.json").read_bytes()
    with pytest.raises(ValueError, match="--overwrite"):
        write_folder(str(folder), arrays, ABOUT)
    assert (folder / "index.json").read_bytes() == before
    write_folder(str(folder), {"val": arrays["train_paired"]}, ABOUT, overwrite=True)
    assert sorted(file.name for file in folder.iterdir()) == ["index.json", "val-000000.tar"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="leaves it alone"):
        write_folder(str(tmp_path / "home"), arrays, ABOUT, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "toy"]  # and nothing temporary is left


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("pairs.csv", "a,b", "holds 'pairs.csv', which is no part of its data set"),
        ("mine/x.txt", "x", "holds 'mine', which is no part"),
        ("train-000009.tar", "x", "holds 'train-000009.tar', which is no part"),
        ("index.json", '{"name": "my web site"}', "is not a shard index"),
    ],
)
def test_overwriting_deletes_nothing_that_a_build_did_not_make(folder, arrays, name, content, fault):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(ValueError, match=fault) as error:
        write_folder(str(folder), arrays, ABOUT, overwrite=True)
    assert "\n" not in str(error.value)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_a_failed_write_leaves_the_old_folder(folder, arrays, tmp_path, monkeypatch):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(ValueError, match="NaN"):
        write_folder(str(folder), {"val": {"x": ONE * np.nan, "y": ONE}}, ABOUT, overwrite=True)

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(shard_writing, "write_synced", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_folder(str(folder), arrays, ABOUT, overwrite=True)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "ä"])
def test_keys_that_webdataset_would_cut_are_refused(tmp_path, key):
    with pytest.raises(ValueError, match="key"):
        write_shard(tmp_path / "val-000000.tar", [(key, {"x": ONE})])


def columns(folder, **values) -> None:
    file = folder / "index.json"
    index = json.loads(file.read_text()) | values
    content = json.dumps({key: value for key, value in index.items() if value != "absent"})
    file.write_text(content.replace("Infinity", "1e999"))


GOOD_COLUMNS = [
    {},
    {"y_names": None, "y_std": None},
    {"y_names": ["", "a" * 200], "x_names": ["$", "°C", "\\frac{"]},
    {"y_mean": [0, -1e300], "y_std": [1, 1e-300]},
    {"y_names": ["a", "b"], "y_dim": "absent"},
]
BAD_COLUMNS = [
    ({"y_names": ["a"]}, "different numbers of columns of y: 1 in y_names, 2 in y_dim"),
    ({"x_names": ["a"] * 5}, "different numbers of columns of x: 5 in x_names, 3 in x_dim"),
    ({"y_names": ["a"], "y_std": [1, 2], "y_dim": "absent"}, "1 in y_names, 2 in y_std"),
    ({"y_names": ["a"], "y_dim": "absent"}, "rows of 2 numbers, but y has 1 in the index"),
    *(({"y_names": value}, "y_names as .* not as a list") for value in (5, "ab", {"a": 1, "b": 2}, True)),
    *(
        ({"y_names": ["a", name]}, "in y_names, not a text")
        for name in (1, None, [["a"]], {}, "x" * 201, "x" * 200_000)
    ),
    *(({"y_std": value}, "y_std as .* not as a list") for value in ("x", 1.0, {})),
    *(({"x_std": [1, 1, value]}, "in x_std, not a finite number above 0") for value in (0, -1, 0.0, "1", None, True)),
    *(({"x_mean": [1, 1, value]}, "in x_mean, not a finite number") for value in ("0", None, False, [0])),
    ({"x_mean": [1, 1, float("inf")]}, "1e999 is larger than any float64"),
    ({"x_mean": [1, 1, 10**400]}, "a whole number of 401 digits"),
    ({"x_mean": [0]}, "1 in x_mean, 3 in x_dim"),
    ({"y_mean": []}, "0 in y_mean, 2 in y_dim"),
]


@pytest.mark.parametrize("values", GOOD_COLUMNS)
def test_what_an_index_may_say_of_its_columns(folder, values):
    columns(folder, **values)
    assert ShardFolder(str(folder)).open("train_paired").y.dim == 2
    assert main(["check", str(folder)]) == 0


@pytest.mark.parametrize(("values", "message"), BAD_COLUMNS)
def test_columns_that_cannot_be_are_one_line_for_training_and_check(folder, capsys, values, message):
    columns(folder, **values)
    with pytest.raises(ValueError, match=message) as caught:
        ShardFolder(str(folder)).open("train_paired")
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)
    found_in_shards = message.startswith("rows of")  # a fault that the check finds; else the folder cannot be opened
    assert main(["check", str(folder)]) == (1 if found_in_shards else 2)
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


@pytest.mark.parametrize("offsets", ["junk", "../a.offsets.npz", 3, None, ["a.offsets.npz"], "a.offsets.npz"])
def test_offsets_in_an_index_are_judged_alike_for_every_kind(folder, offsets):
    index = json.loads((folder / "index.json").read_text())
    index["splits"]["probe"]["shards"][0] |= {"offsets": offsets, "offsets_sha256": "0" * 63}
    for kind in ("vectors", "images", "absent"):
        columns(folder, **index, kind=kind)
        with pytest.raises(ValueError, match="names the offsets"):
            ShardFolder(str(folder))
        with pytest.raises(ValueError, match="names the offsets"):
            shards_by_split(str(folder))
        assert main(["check", str(folder)]) == 2


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(folder):
    handler = functools.partial(QuietHandler, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/toy"
        server.shutdown()


def test_a_remote_folder_is_copied_once_and_checked(served, folder, arrays, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = ShardFolder(served).open("train_x").x.take(np.arange(7))
    assert np.array_equal(rows, arrays["train_x"]["x"])
    (folder / "train_x-000000.tar").unlink()
    assert np.array_equal(ShardFolder(served).open("train_x").x.take(np.arange(7)), rows)  # from the local copy
    content = bytearray((folder / "probe-000000.tar").read_bytes())
    content[5000] ^= 1
    (folder / "probe-000000.tar").write_bytes(content)
    with pytest.raises(ValueError, match="sha256"):
        ShardFolder(served).open("probe")
    (folder / "index.json").unlink()
    with pytest.raises(ValueError, match=r"index\.json"):
        ShardFolder(served)


def test_windows_drives_are_paths_not_schemes():
    assert not remote.is_remote("C:/shards")
    assert not remote.is_remote("data/weather")
    assert remote.is_remote("s3://bucket/weather")
