"""What a broken-off evaluation left belongs to the same files, and nobody else's file is deleted with it."""

import argparse
from pathlib import Path

import pytest

from commands.evaluate.partial import Partial
from commands.evaluate.run import data_places

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
    partial.write("001/kept.pt", b"x")
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
    (tmp_path / "partial" / "thesis.txt").write_text("precious")
    (tmp_path / "partial" / "mine").mkdir()
    partial.remove()
    assert sorted(entry.name for entry in (tmp_path / "partial").iterdir()) == ["mine", "thesis.txt"]


def test_a_report_is_not_begun_where_another_evaluation_will_clean_up(tmp_path):
    begun(tmp_path)
    with pytest.raises(ValueError, match="belongs to another evaluation, which will delete it"):
        Partial(tmp_path / "partial" / "x", "python evaluate.py", {}, [], None).check(overwrite=True)


@pytest.mark.parametrize(
    ("text", "given", "found"),
    [
        ("data: {init_args: {path: data}}", None, ["data"]),
        ("data: {init_args: {path: [data, 's3://b/x'], test_path: more}}", None, ["data", "more"]),
        ("data: {init_args: {path: data}}", "other", ["other"]),
        ("data: {init_args: {path: 3}}", None, []),
        ("data: null", None, []),
    ],
)
def test_the_data_are_those_of_the_command_or_of_the_config(tmp_path, text, given, found):
    (tmp_path / "config.yaml").write_text(text)
    args = argparse.Namespace(prompts=None, data=given)
    assert data_places(args, tmp_path / "config.yaml") == [Path(name) for name in found]
    assert data_places(argparse.Namespace(prompts=Path("p.txt"), data=None), tmp_path / "config.yaml") == []
