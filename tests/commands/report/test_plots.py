import pytest

from callbacks.metrics.catalogue import describe
from commands.report import write as report
from commands.report.plots import Point, auc_note, curves, pareto_front, trade_offs
from commands.report.rows import metric_rows


def run(name="a", steps=None, step=None, **metrics):
    return {
        "checkpoint": f"models/{name}",
        "config": f"models/{name}/config.yaml",
        "data": {},
        "metrics": {f"test/{key}": value for key, value in metrics.items()},
        "intervals": {},
        "protocol": {},
        "sampling": {} if steps is None else {"steps": steps, "nfe": 2.0 * steps, "seconds_per_sample": 1.0},
        "step": step,
        "seconds": 1.0,
        "device": "cpu",
        "versions": {},
    }


def drawn(runs):
    return trade_offs(metric_rows(runs), runs, [each["checkpoint"][7:] for each in runs], range(len(runs)))


def along(runs):
    return curves(metric_rows(runs), runs, range(len(runs)))


def test_the_direction_of_a_metric_decides_which_is_best():
    runs = [run("a", fid=2.0, clip_score=30.0, novelty=1.0), run("b", fid=1.0, clip_score=20.0, novelty=2.0)]
    for each in runs:
        each["intervals"] = {name: [value - 0.1, value + 0.1] for name, value in each["metrics"].items()}
    best = {row["name"]: [cell["best"] for cell in row["cells"]] for row in metric_rows(runs)}
    assert best == {
        "test/fid": [False, True],
        "test/clip_score": [True, False],
        "test/novelty": [False, False],  # who knows
    }


@pytest.mark.parametrize(
    ("name", "title", "better"),
    [
        ("test/fd_mobilenet", "Fréchet distance, mobilenet", "lower"),
        ("test/edit_psnr", "PSNR edit", "higher"),
        ("test/lpips_vgg", "LPIPS", "lower"),
        ("val/image_to_text_r5", "Caption found by image, R@5", "higher"),
        ("test/loss", "Loss", "lower"),
        ("test/novelty", "test/novelty", ""),
    ],
)
def test_families_of_metrics_are_known(name, title, better):
    assert describe(name)[1][0] == title
    assert describe(name)[1].better == better


def test_a_spread_stands_beside_its_metric_and_metrics_of_one_run_are_shown():
    rows = metric_rows([run("a", kid=0.01, kid_std=0.002), run("b", kid=0.02, fid=3.0)])
    assert [row["name"] for row in rows] == ["test/fid", "test/kid"]
    assert rows[0]["cells"][0]["text"] == "–"
    assert rows[1]["cells"][0]["interval"] == "std of subsets 0.0020"


def test_curves_follow_steps_within_one_family():
    runs = [run("a", 4, fid=1.0), run("a", 1, fid=3.0), run("b", 1, fid=2.0), run("a", 2, fid=2.0)]
    (plot,) = along(runs)  # b alone has no curve
    assert plot.x_title == "inference steps"
    assert [[(p.x, p.y, p.run) for p in line] for line in plot.lines] == [[(1, 3.0, 0), (2, 2.0, 0), (4, 1.0, 0)]]


def test_checkpoints_of_one_training_make_a_curve():
    runs = [run("a", step=100 * 10**i, nll=1.0 / (i + 1)) for i in range(3)]
    for each in runs:
        each["config"] = "runs/a/config.yaml"
    (plot,) = along(runs)
    assert (plot.x_title, [p.x for p in plot.points]) == ("training step", [100, 1000, 10000])
    assert along(runs[:1]) == []


def test_the_front_holds_what_no_other_beats_in_both():
    points = [Point(x, y) for x, y in ((1, 5.0), (2, 3.0), (2, 4.0), (4, 3.5), (8, 1.0))]
    assert [(p.x, p.y) for p in pareto_front(points, "lower")] == [(1, 5.0), (2, 3.0), (8, 1.0)]
    assert [(p.x, p.y) for p in pareto_front(points, "higher")] == [(1, 5.0)]


def test_quality_is_drawn_against_a_cost_that_differs():
    runs = [run("a", 1, fid=3.0, novelty=1.0), run("b", 4, fid=1.0, novelty=2.0)]
    (plot,) = drawn(runs)  # equal seconds, and who knows whether novelty is good
    assert (plot.title, plot.x_title) == ("FID ↓", "passes through the network per sample")
    assert [point.label for point in plot.points] == ["a", "b"]
    assert drawn([run("a", 4, fid=3.0), run("b", 4, fid=1.0)]) == []


@pytest.mark.parametrize(
    ("seconds", "half", "plots"),
    [
        ((1.0, 2.0), 0.1, 1),
        ((1.0, 2.0), 0.6, 0),  # within the noise of the clock
        ((1.0, 1.2), 0.01, 0),  # less than other work on the machine does
        ((1.0, 2.0), None, 0),  # of one batch, who knows
    ],
)
def test_seconds_count_where_they_differ_by_more_than_noise(seconds, half, plots):
    runs = [run(name, 4, fid=value) for name, value in (("a", 3.0), ("b", 1.0))]
    for each, value in zip(runs, seconds, strict=True):
        each["sampling"] |= {"seconds_per_sample": value}
        if half is not None:
            each["sampling"]["seconds_per_sample_interval"] = [value - half, value + half]
    assert [plot.x_title for plot in drawn(runs)] == ["seconds per sample"] * plots


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ("test/all_right", "AUC of the oracle on drafts 0.70 to 0.75"),
        ("test/held_out_all_right", "AUC of the oracle on drafts 0.80"),
        ("val/all_right", ""),
    ],
)
def test_a_front_has_the_auc_by_its_own_reader(metric, told):
    runs = [run("a", oracle_auc=0.7, held_out_oracle_auc=0.801), run("b", oracle_auc=0.75, held_out_oracle_auc=0.8)]
    assert auc_note(metric, [*runs, run("c")]) == told


def test_equal_protocols_are_said_once(tmp_path):
    runs = [run("a", fid=1.0), run("b", fid=2.0), run("c", fid=3.0)]
    for each, num in zip(runs, (10, 10, 20), strict=True):
        each["protocol"] = {"test/fid": {"num_generated": num, "features": {"network": "<b>X"}, "seed": None}}
    report.write(tmp_path, runs, [None] * 3, "")
    page = (tmp_path / "report.html").read_text()
    assert "<b>a; b</b>: num_generated 10, features (network &lt;b&gt;X)" in page
    assert "<b>c</b>: num_generated 20" in page
