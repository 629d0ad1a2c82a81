import json
import re

import pytest

from commands.report import write as report
from commands.report.rows import LABEL_WIDTH, PLOT_WIDTH, labels, metric_rows, whiskers

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


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["runs/w/a/checkpoints/best.ckpt"], ["a/best"]),
        (["runs/w/a/checkpoints/best.ckpt", "runs/w/b/checkpoints/best.ckpt"], ["a", "b"]),
        (["runs/w/a/checkpoints/best.ckpt", "runs/w/a/checkpoints/last.ckpt"], ["best", "last"]),
        (["runs/v/a/checkpoints/best.ckpt", "runs/w/a/checkpoints/last.ckpt"], ["v/a/best", "w/a/last"]),
        (["x/best.ckpt", "x/best.ckpt"], ["x/best", "x/best"]),
        (["x/a.ckpt", "x/a/b.ckpt"], ["a", "a/b"]),
    ],
)
def test_labels_are_what_tells_checkpoints_apart(paths, expected):
    assert labels(paths) == expected


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


def test_best_is_the_lowest_and_a_missing_value_never_is():
    rows = metric_rows([run("a", nll=2.0), run("b", nll=1.0), run("c", nll=None)])
    assert [cell["best"] for cell in rows[0]["cells"]] == [False, True, False]
    assert rows[0]["cells"][2]["text"] == "–"
    assert not metric_rows([run()])[0]["cells"][0]["best"]  # nothing to be better than


def test_a_floor_that_differs_between_runs_is_left_out():
    other = run("b")
    other["metrics"]["test/conditional_w2_floor"] = 0.4
    assert metric_rows([run(), other])[1]["floor"] is None


def test_whiskers_keep_order_and_proportion_inside_the_plot():
    runs = [run("a", nll=1.0, half=0.1), run("b", nll=2.0, half=0.3), run("c", nll=1.5, half=0.2)]
    plot = whiskers(metric_rows(runs)[0], ["a", "b", "c"])
    a, b, c = plot["dots"]
    assert c["value"] == pytest.approx((a["value"] + b["value"]) / 2, abs=0.2)  # 1.5 lies half way
    assert b["high"] - b["low"] == pytest.approx(3 * (a["high"] - a["low"]), abs=0.5)
    inside = [d[k] for d in plot["dots"] for k in ("low", "value", "high")] + [t["x"] for t in plot["ticks"]]
    assert all(LABEL_WIDTH <= x <= LABEL_WIDTH + PLOT_WIDTH for x in inside)
    per_unit = b["value"] - a["value"]
    for tick in plot["ticks"]:  # a tick's text says where it stands
        assert tick["x"] == pytest.approx(a["value"] + per_unit * (float(tick["text"]) - 1.0), abs=0.6)
    assert 3 <= len(plot["ticks"]) <= 8


def test_a_metric_without_spread_can_be_drawn():
    plot = whiskers(metric_rows([run(nll=0.0, half=0.0)])[0], ["a"])
    assert LABEL_WIDTH < plot["dots"][0]["value"] < LABEL_WIDTH + PLOT_WIDTH


def test_the_report_is_complete_and_needs_nothing_else(tmp_path):
    out = tmp_path / "new" / "folder"
    runs = [run("a", nll=1.0), run("b", nll=2.0)]
    report.write(out, runs, [PNG, None], "python evaluate.py a b --out new/folder")
    assert sorted(p.name for p in out.iterdir()) == ["metrics.json", "report.html", "report.md", "samples-a.png"]
    assert json.loads((out / "metrics.json").read_text()) == {"schema": 1, "runs": runs}
    page = (out / "report.html").read_text()
    assert set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([a-z]+:)""", page)) == {"data:"}
    assert "<script" not in page
    assert "<b>1.000</b>" in page
    assert "python evaluate.py a b --out new/folder" in page
    assert "different data" not in page
    table = (out / "report.md").read_text()
    assert "| Negative log-likelihood (nats) ↓ | **1.000** [0.966 … 1.034] | 2.000 [1.966 … 2.034] |  |" in table
    assert "![samples of a](samples-a.png)" in table


def test_markup_in_names_stays_text(tmp_path):
    report.write(tmp_path, [run("<script>alert(1)</script>x")], [None], "<img src=http://x>")
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "<img" not in page


def test_different_data_are_pointed_out(tmp_path):
    other = run("b", data={"class_path": "datamodules.PairedVectorsDataModule", "init_args": {"path": "data/roll"}})
    report.write(tmp_path, [run(), other], [None, None], "")
    assert "measured on different data" in (tmp_path / "report.html").read_text()


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
    report.print_table([run("a[b]", nll=1.0), run("c", nll=2.0)])
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
