"""What a broken-off evaluation left belongs to the same files, and nobody else's file is deleted with it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from commands.evaluate.metrics_by_name import read_options
from commands.evaluate.partial import Partial, files_in
from commands.evaluate.run import data_read

RUN = {"checkpoint": "a", "metrics": {"test/nll": 1.0}}


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "index.json").write_text("{}")
    (tmp_path / "data" / "test-000000.tar").write_bytes(b"x" * 9)
    return tmp_path / "data"


def begun(out: Path, *files: Path) -> Partial:
    partial = Partial(out, "python evaluate.py", {"seed": 0}, list(files), None)
    partial.keep(0, RUN, b"PNG")
    partial.write("001/" + "a" * 32 + ".pt", b"x")
    return partial


@pytest.mark.parametrize("inside", ["", "out"])
def test_it_goes_on_where_the_files_are_the_same(data, inside):
    """Also where OUT lies in one of the folders that are read, or is one."""
    out = data / inside
    begun(out, data)
    again = Partial(out, "python evaluate.py", {"seed": 0}, [data], None)
    again.check(overwrite=False)
    assert again.finished(0) == (RUN, b"PNG")
    again.remove()
    assert sorted(file.name for file in data.rglob("*") if file.is_file()) == ["index.json", "test-000000.tar"]


@pytest.mark.parametrize("name", ["index.json", "test-000000.tar", "test-000001.tar"])
def test_it_does_not_go_on_with_other_data(data, tmp_path, name):
    begun(tmp_path / "out", data)
    (data / name).write_bytes(b"other")
    again = Partial(tmp_path / "out", "python evaluate.py", {"seed": 0}, [data], None)
    with pytest.raises(ValueError, match="of files that have changed since"):
        again.check(overwrite=False)
    again.check(overwrite=True)
    assert not (tmp_path / "out" / "partial").exists()


def test_what_others_put_beside_it_stays(tmp_path):
    partial = begun(tmp_path)
    mine = ["thesis.txt", "x/report.html", "001/notes.md", "000.txt", "x/000.json", "001/kept.pt", ".plan.json.swp"]
    for name in mine:
        (tmp_path / "partial" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "partial" / name).write_text("precious")
    (tmp_path / "partial" / "empty" / "000").mkdir(parents=True)
    (tmp_path / "partial" / "002").symlink_to(tmp_path)
    for half in (".plan.json.tmp.12", ".000.png.tmp.12", f"001/.{'b' * 32}.pt.tmp.12"):
        (tmp_path / "partial" / half).write_text("half")
    partial.remove()
    left = {path.relative_to(tmp_path / "partial").as_posix() for path in (tmp_path / "partial").rglob("*")}
    assert left == {*mine, "x", "001", "002", "empty", "empty/000"}


def test_a_report_is_not_begun_where_another_evaluation_will_clean_up(tmp_path):
    begun(tmp_path)
    with pytest.raises(ValueError, match="belongs to another evaluation, which will delete it"):
        Partial(tmp_path / "partial" / "x", "python evaluate.py", {}, [], None).check(overwrite=True)


@pytest.mark.parametrize("inside", ["", "evaluation", "deep/er"])
def test_an_evaluation_inside_what_it_measures_goes_on_until_that_changes(tmp_path, inside):
    pipeline = tmp_path / "pipeline"
    (pipeline / "unet").mkdir(parents=True)
    (pipeline / "unet" / "weights").write_text("1")

    def again(**options):
        partial = Partial(pipeline / inside, "command", {}, [pipeline], [])
        partial.check(overwrite=False)
        return partial

    again().write("000/" + "a" * 32 + ".png", b"kept")
    again().keep(1, {}, b"picture")
    (pipeline / inside / "metrics.json").write_text("{}")  # cut off while the report was written
    assert again().finished(1) == ({}, b"picture")
    (pipeline / "unet" / "weights").write_text("22")
    with pytest.raises(ValueError, match="have changed since"):
        again()


def test_a_foreign_plan_is_left_alone(tmp_path):
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "plan.json").write_text('{"id": "mine", "command": "make"}')
    with pytest.raises(ValueError, match="was not left by an evaluation"):
        Partial(tmp_path, "command", {}, [], []).check(overwrite=True)


@pytest.mark.parametrize(
    "named",
    [
        ["--metrics.fid.network.weights={}"],
        ["--metrics.fid.reference", "{}"],
        ["--metrics.fid.reference", "file://{}"],
        ["--metrics.fid.several=[x, {}]"],
    ],
)
def test_a_run_is_measured_again_when_a_file_of_its_metrics_changed(tmp_path, named):
    weights = tmp_path / "weights"
    weights.write_text("1")
    words = [part.format(weights) for part in named]

    def again(out="out"):
        partial = Partial(tmp_path / out, "command", {}, [], [["fid"], read_options(words), 1000])
        partial.check(overwrite=False)  # the samples are the same
        return partial

    again().keep(0, {}, None)
    assert again().finished(0) is not None
    weights.write_text("22")
    assert again().finished(0) is None


def test_a_cache_of_features_is_no_part_of_a_run(tmp_path):
    def again():
        options = read_options(["--metrics.fid.cache_dir", str(tmp_path / "cache")])
        return Partial(tmp_path / "out", "command", {}, [], [["fid"], options, 1000])

    (tmp_path / "cache").mkdir()
    again().keep(0, {}, None)
    (tmp_path / "cache" / "features.npy").write_text("1")
    assert again().finished(0) is not None


def described(path, **more):
    """What tells the data of two runs on them apart."""
    entries, files = data_read([SimpleNamespace(data=SimpleNamespace(hparams={"path": path, **more}))] * 2)
    return entries, sorted(file.name for file in files)


def test_the_data_are_the_entries_of_an_index_and_the_shards_on_this_disk(data, tmp_path):
    loose, _ = described(str(data / "test-000000.tar"))
    assert loose == {str(data / "test-000000.tar"): [[str(data / "test-000000.tar"), None]]}
    entry = {"file": "test-000000.tar", "bytes": 9, "sha256": "0" * 64}
    index = {"schema": 1, "splits": {"test": {"shards": [entry]}}}
    (data / "index.json").write_text(json.dumps(index))
    one, files = described(str(data))
    assert files == ["test-000000.tar"]
    assert one[str(data)] == [[str(data / "test-000000.tar"), entry]]
    (data / "index.json").write_text(json.dumps(index | {"license": "other"}))
    assert described(str(data))[0] == one
    entry["sha256"] = "1" * 64
    (data / "index.json").write_text(json.dumps(index))
    assert described(str(data))[0] != one
    assert described("x", splits={"test_path": [str(data)]})[1] == sorted(["x", "x", "test-000000.tar"])
    assert described(None) == ({}, [])


@pytest.mark.parametrize("path", ["nowhere", "s3:nowhere", "pipe:x", 3, ["a", "{"], "a{"])
def test_data_that_cannot_be_read_are_left_to_the_datamodule(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert described(path)[0] == {}


def test_what_a_config_names_counts_as_what_options_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("w.pt", "cache"):
        Path(name).write_text("")
    network = {"class_path": "x.Net", "init_args": {"weights": "w.pt", 3: ["missing", None, 7]}}
    callbacks = {
        "fid": {"class_path": "callbacks.FIDCallback", "init_args": {"network": network, "cache_dir": "cache"}}
    }
    assert list(files_in(callbacks)) == [Path("w.pt")]
    assert list(files_in(None)) == list(files_in("x" * 10_000)) == list(files_in("C:\\x")) == []
