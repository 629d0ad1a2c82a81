import json
import re

import pytest

from commands.report import write as report
from commands.report.rows import metric_rows
from commands.report.text import print_table

PNG = b"\x89PNG\r\n\x1a\n not really"


def run(name="a", nll=1.0, w2=0.5, half=0.034, **more):
    return {
        "checkpoint": f"runs/weather/{name}/checkpoints/best.ckpt",
        "config": f"runs/weather/{name}/config.yaml",
        "data": {"class_path": "datamodules.PairedVectorsDataModule", "init_args": {"path": "data/weather"}},
        "metrics": {"test/conditional_w2": w2, "test/conditional_w2_floor": 0.3, "test/nll": nll},
        "intervals": {} if nll is None else {"test/nll": [nll - half, nll + half]},
        "seconds": 1.5,
        "device": "cpu",
        "versions": {"torch": "2.15.0"},
    } | more


def test_rows_are_ordered_and_floors_stand_beside_their_metric():
    rows = metric_rows([run()])
    assert [row["name"] for row in rows] == ["test/nll", "test/conditional_w2"]
    assert [row["floor"] for row in rows] == [None, 0.3]


@pytest.mark.parametrize(
    ("value", "half", "text", "interval"),
    [
        (0.57136, 0.0341, "0.571", "0.537 … 0.605"),
        (-12.3456, 0.5, "−12.3", "−12.8 … −11.8"),
        (1234.56, 40.0, "1235", "1195 … 1275"),
        (2e-7, 1e-7, "0.000000", "0.000000 … 0.000000"),
    ],
)
def test_values_are_rounded_to_the_second_digit_of_their_interval(value, half, text, interval):
    cell = metric_rows([run(nll=value, half=half)])[0]["cells"][0]
    assert (cell["text"], cell["interval"]) == (text, interval)


def test_best_is_what_is_better_than_every_other_by_more_than_chance():
    def best(*values, half=0.034):
        row = metric_rows([run(name, nll=value, half=half) for name, value in zip("abcd", values, strict=False)])[0]
        return [cell["best"] for cell in row["cells"]]

    assert best(2.0, 1.0, None) == [False, True, False]
    assert best(2.0, 1.0, 1.04) == [False, False, False]  # sqrt(2) * 0.034 is more than what lies between
    assert best(2.0, 1.0, 1.05) == [False, True, False]
    assert best(2.0, 1.0, half=1.0) == [False, False]
    assert best(1.0) == [False]  # nothing to be better than


def test_a_value_without_an_interval_is_never_best():
    rows = metric_rows([run("a", w2=0.4), run("b", w2=0.5)])
    assert [cell["best"] for cell in rows[1]["cells"]] == [False, False]
    assert rows[1]["cells"][1]["apart"] is None


def test_a_floor_that_differs_between_runs_is_left_out():
    other = run("b")
    other["metrics"]["test/conditional_w2_floor"] = 0.4
    assert metric_rows([run(), other])[1]["floor"] is None


def test_the_report_is_complete_and_needs_nothing_else(tmp_path):
    out = tmp_path / "new" / "folder"
    runs = [run("a", nll=1.0), run("b", nll=2.0)]
    report.write(out, runs, [PNG, None], "python evaluate.py a b --out new/folder")
    assert sorted(p.name for p in out.iterdir()) == ["metrics.json", "report.html", "report.md", "samples-a.png"]
    assert json.loads((out / "metrics.json").read_text()) == {"schema": 1, "runs": runs}
    page = (out / "report.html").read_text()
    assert page.count('class="certain"') == 1  # of W₂, which has no interval, nothing is known
    assert set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([a-z]+:)""", page)) == {"data:"}
    assert "<script" not in page
    assert "<b>1.000</b>" in page
    assert "python evaluate.py a b --out new/folder" in page
    assert "different data" not in page
    table = (out / "report.md").read_text()
    assert "| Negative log-likelihood (nats) ↓ | **1.000** [0.966 … 1.034] | 2.000 [1.966 … 2.034] |  |" in table
    assert "| Negative log-likelihood (nats) ↓ | +1.000 [+0.952 … +1.048], rows not paired |" in table
    assert "![samples of a](samples-a.png)" in table


def test_markup_in_names_stays_text(tmp_path):
    report.write(tmp_path, [run("<script>alert(1)</script>x")], [None], "<img src=http://x>")
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "<img" not in page


def test_runs_of_other_data_stand_in_tables_of_their_own(tmp_path, capsys):
    """What differs in training alone is not another task."""
    data = {"class_path": "datamodules.PairedVectorsDataModule", "init_args": {"path": "data/weather", "num_pairs": 32}}
    other = run("roll", nll=0.5, data={**data, "init_args": {"path": "data/roll"}})
    runs = [run("a"), other, run("c", nll=2.0, data=data)]
    report.write(tmp_path, runs, [None] * 3, "")
    page, table = ((tmp_path / name).read_text() for name in ("report.html", "report.md"))
    assert "in 2 tables" in " ".join(page.split())
    assert page.count("<table>") == 2
    assert page.index("Tested on data/weather") < page.index("Tested on data/roll")
    assert "| metric | a | c | floor |" in table
    assert "| metric | roll | floor |" in table
    assert "**0.500**" not in table  # the lowest of all, and the only one of its table
    print_table(runs)
    printed = capsys.readouterr().out
    assert printed.index("Tested on data/weather") < printed.index("Tested on data/roll")


def test_a_difference_within_chance_is_not_marked(tmp_path):
    report.write(tmp_path, [run("a"), run("b", nll=1.04)], [None, None], "")
    page = (tmp_path / "report.html").read_text()
    assert "<small>Δ +0.040 [−0.008 … +0.088] *</small>" in page
    assert "<b>" not in page[: page.index("Values with their")]


def test_rows_are_kept_beside_the_numbers(tmp_path):
    runs = [run("a", rows={"test/nll": [0.5, 1.5]}), run("b", nll=2.0, rows={"test/nll": [1.5, 2.5]}, influence={})]
    report.write(tmp_path, runs, [None, None], "")
    kept = json.loads((tmp_path / "rows.json").read_text())["runs"]
    assert kept[1] == {"run": "b", "rows": {"test/nll": [1.5, 2.5]}, "influence": {}}
    assert all("rows" not in each for each in json.loads((tmp_path / "metrics.json").read_text())["runs"])
    assert "| Negative log-likelihood (nats) ↓ | +1.000 [+1.000 … +1.000] |" in (tmp_path / "report.md").read_text()


def test_metrics_json_comes_last(tmp_path):
    (tmp_path / "report.md").mkdir()  # in the way of one of the files
    with pytest.raises(OSError, match=r"report\.md"):
        report.write(tmp_path, [run()], [None], "")
    assert (tmp_path / "report.html").exists()
    assert not (tmp_path / "metrics.json").exists()
    assert not list(tmp_path.glob(".*"))


def test_what_json_cannot_hold_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.write(tmp_path / "out", [run(seconds=float("nan"))], [None], "")
    assert not (tmp_path / "out").exists()


def test_a_report_about_other_checkpoints_is_kept(tmp_path):
    report.write(tmp_path, [run("a")], [None], "")
    report.check_out(tmp_path, [run("a")["checkpoint"]], overwrite=False)
    report.check_out(tmp_path, ["other.ckpt"], overwrite=True)
    with pytest.raises(ValueError, match=r"holds a report about runs/weather/a/checkpoints/best.ckpt; .*--overwrite"):
        report.check_out(tmp_path, ["other.ckpt"], overwrite=False)
    (tmp_path / "metrics.json").write_text("[broken")
    with pytest.raises(ValueError, match="holds a report about something else"):
        report.check_out(tmp_path, ["other.ckpt"], overwrite=False)
    with pytest.raises(ValueError, match="is a file; name another folder"):
        report.check_out(tmp_path / "metrics.json", ["other.ckpt"], overwrite=False)


def test_the_table_on_the_terminal(capsys):
    print_table([run("a[b]", nll=1.0), run("c", nll=2.0)])
    text = capsys.readouterr().out
    assert "a[b]" in text
    assert re.search(r"test/conditional_w2\s+0\.5000\s+0\.5000\s+0\.3000", text)
    assert re.search(r"test/nll\s+1\.000\s+2\.000\s*\n\s+±0\.034\s+±0\.034", text)


@pytest.mark.parametrize(
    "place", ["file", "file/x", "dangling", "dangling/x", "/proc/x", "/dev/null/x", "a" * 300, "taken"]
)
def test_a_report_that_could_not_be_written_is_refused_beforehand(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "taken" / "report.html").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError if len(place) < 300 else (ValueError, OSError)) as caught:
        report.check_out(tmp_path / place, ["a"], overwrite=True)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before
