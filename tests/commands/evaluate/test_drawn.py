"""evaluate.py on folders that `fewstep.collaboration draw` has filled: a column for each budget, and their fronts."""

import json
import tracemalloc
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from sklearn.metrics import roc_auc_score

import evaluate
from commands.evaluate import oracle_auc
from commands.evaluate.drawn import HIGH, LATENCY, PASSES, REPAIRED, PassesCallback, bootstrap_quantile
from commands.report.plots import COSTS, trade_offs
from commands.report.rows import metric_rows
from commands.report.tracked import COLUMNS
from fewstep.collaboration.command_line.drawn_files import DrawnFiles, draft_files, read_drawn
from fewstep.files.pictures import as_png
from fewstep.rewards.attribute_reader import AttributeReader
from fewstep.rewards.attributes import Judged
from tests.callbacks.wandb_record import history, parts_of, records

NUM, COLOURS = 12, ["red", "green", "blue", "white"]


def drawn(folder, share, attributes=True, ended=True):
    """A folder of pictures as `draw` leaves it, or a killed one; this share of them is repaired."""
    files = DrawnFiles(folder, {"policy": f"Policy(threshold={share})", "seed": 0})
    rng = np.random.default_rng(0)
    rows = [
        {
            "key": f"{n:02d}", "prompt": f"a {COLOURS[n % 4]} square", "route": "refine" if n < share * NUM else "keep",
            "attributes": {"colour": COLOURS[n % 4]} if attributes else None, "drafts": 1, "draft_score": n % 5 / 4,
            "score": None, "passes": 2.0 + n / 100 + 10 * (n < share * NUM), "seconds": 0.25 + share * (n == 3),
        }
        for n in range(NUM)
    ]  # fmt: skip
    pictures = [Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for _ in rows]
    drafts = {row["key"]: as_png(picture.rotate(90)) for row, picture in zip(rows, pictures, strict=True)}
    repaired = {row["key"]: drafts[row["key"]] for row in rows if row["route"] != "keep"}
    files.add(rows, [as_png(picture) for picture in pictures], repaired)
    if ended:
        files.gather([row["key"] for row in rows])
    return folder, rows


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    torch.manual_seed(0)
    reader = AttributeReader({"colour": COLOURS}, "convnext_atto", {"depths": [1] * 4, "dims": [8] * 4}, 32)
    reader.save_pretrained(folder)
    return ["--metrics", "attributes", "--metrics.attributes.reader.source", str(folder), "--bootstrap", "50"]


def test_budgets_side_by_side(arguments, tmp_path, capsys):
    folders = [drawn(tmp_path / f"budget-{share}", share) for share in (0.0, 0.25, 0.75)]
    assert evaluate.main([*(str(folder) for folder, _ in folders), *arguments, "--out", str(tmp_path / "out")]) == 0
    runs = json.loads((tmp_path / "out" / "metrics.json").read_text())["runs"]
    for run, (_, rows), share in zip(runs, folders, (0.0, 0.25, 0.75), strict=True):
        passes = [row["passes"] for row in rows]
        assert run["metrics"][PASSES] == pytest.approx(np.mean(passes))
        assert run["metrics"][HIGH] == pytest.approx(max(passes))  # eleven of twelve are less than 95 %
        assert run["metrics"][REPAIRED] == pytest.approx(share)
        assert run["sampling"]["nfe"] == pytest.approx(np.mean(passes), abs=1e-5)
        assert run["sampling"]["nfe_p95"] == pytest.approx(max(passes))
        assert run["sampling"]["seconds_per_sample"] == pytest.approx(0.25 + share / 12, abs=1e-4)
        assert run["sampling"]["seconds_p95"] == run["metrics"][LATENCY] == pytest.approx(0.25 + share)
        assert run["intervals"][LATENCY] == pytest.approx([0.25, 0.25 + share])  # of 12 with one that is later
        assert "test/all_right" in run["intervals"]
        low, high = run["intervals"][PASSES]
        assert low < run["metrics"][PASSES] < high
    assert runs[0]["data"] == runs[1]["data"]
    page = (tmp_path / "out" / "report.html").read_text()
    for title in ("passes through the network per sample", "passes that 95 % of samples stay within", "budget-0.75"):
        assert title in page
    assert "seconds that 95 % of samples stay within" not in page  # one late picture of twelve is no difference
    assert "different data" not in page
    assert "passes_p95" in capsys.readouterr().out


def test_the_auc_of_the_oracle_is_of_drafts_and_stands_beside_every_front(arguments, tmp_path, monkeypatch, capsys):
    """Against scikit-learn's, of the drafts that were repaired and of those that were kept."""
    right = np.arange(NUM) % 3 > 0
    seen = {}

    def judged(reader, images, wanted):
        """Knows a picture by its first pixels."""
        pixels = images.add(1).mul(127.5).round().to(torch.uint8)
        places = torch.tensor([seen[picture[:, 0].numpy().tobytes()] for picture in pixels])
        found = torch.from_numpy(right)[places, None, None]
        return Judged(torch.ones_like(found), found, found.float())

    folders = [drawn(tmp_path / f"budget-{share}", share) for share in (0.0, 0.5)]
    for folder, rows in folders:
        for place, (key, file) in enumerate(draft_files(folder, rows).items()):
            seen[np.asarray(Image.open(file))[0].T.tobytes()] = place
            assert file.parent.name == ("drafts" if key < "06" and folder.name == "budget-0.5" else folder.name)
    monkeypatch.setattr(oracle_auc, "judge", judged)
    out = tmp_path / "out"
    assert evaluate.main([*(str(folder) for folder, _ in folders), *arguments, "--out", str(out)]) == 0
    expected = roc_auc_score(right, [row["draft_score"] for row in folders[0][1]])
    runs = json.loads((out / "metrics.json").read_text())["runs"]
    for run in runs:
        assert run["metrics"]["test/oracle_auc"] == pytest.approx(expected)
        low, high = run["intervals"]["test/oracle_auc"]
        assert low < expected < high
    plots = trade_offs(metric_rows(runs), runs, ["a", "b"], [0, 1])
    assert len(plots) >= 4
    assert {plot.note for plot in plots} == {f"AUC of the oracle on drafts {expected:.2f}"}
    assert f"AUC of the oracle on drafts {expected:.2f}" in (out / "report.html").read_text()
    right[:] = True
    assert evaluate.main([str(folders[0][0]), *arguments, "--out", str(tmp_path / "other")]) == 0
    assert "test/oracle_auc is left out: 12 of 12 drafts are right" in capsys.readouterr().err
    (folders[1][0] / "drafts" / "02.png").unlink()
    assert evaluate.main([str(folders[1][0]), *arguments, "--out", str(tmp_path / "third")]) == 0
    assert "has no drafts/ of what was repaired: no AUC of the oracle" in capsys.readouterr().err
    assert "oracle_auc" not in (tmp_path / "third" / "metrics.json").read_text()


def test_the_fronts_go_to_weights_and_biases(arguments, tmp_path, capsys):
    folders = [str(drawn(tmp_path / f"budget-{share}", share)[0]) for share in (0.25, 0.75)]
    out = tmp_path / "out"
    assert evaluate.main([*folders, *arguments, "--out", str(out), "--wandb", "offline"]) == 0
    assert f"wandb   wandb sync {out}" in capsys.readouterr().out
    (file,) = parts_of(out)
    logged = {key: value for row in history(records(file)) for key, value in row.items()}
    for name in ("passes_that_95_of_samples_stay_within", "passes_through_the_network_per_sample"):
        assert logged[f"fronts/Everything_right_by_{name}/_type"] == "html-file"
    (table,) = (file.parent / "files" / "media" / "table").glob("evaluation*.json")
    told = json.loads(table.read_text())
    assert told["columns"] == COLUMNS
    runs = json.loads((out / "metrics.json").read_text())["runs"]
    for run, name in zip(runs, ("budget-0.25", "budget-0.75"), strict=True):
        line = next(line for line in told["data"] if line[:2] == [name, "test/all_right"])
        costs = [run["sampling"].get(cost) for cost in COSTS]
        assert line[2:] == pytest.approx(
            [run["metrics"]["test/all_right"], *run["intervals"]["test/all_right"], *costs]
        )


def test_the_pictures_are_those_of_the_folder(arguments, tmp_path):
    """Two processes' worth of batches and one have the same numbers, and these are those of the reader."""
    from fewstep.rewards.attribute_reader import load_attribute_reader
    from fewstep.rewards.attributes import judge

    folder, rows = drawn(tmp_path / "drawn", 0.5)
    found = []
    for size in ("5", "12"):
        out = tmp_path / size
        assert evaluate.main([str(folder), *arguments, "--batch-size", size, "--out", str(out)]) == 0
        found.append(json.loads((out / "metrics.json").read_text())["runs"][0]["metrics"])
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    pixels = np.stack([np.asarray(Image.open(folder / f"{row['key']}.png")) for row in rows])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    judged = judge(load_attribute_reader(arguments[3]), images, [row["attributes"] for row in rows])
    assert found[0]["test/attributes_log_p"] == pytest.approx(judged.mean_log_p.mean().item(), abs=1e-4)


def test_the_interval_of_the_quantile_is_a_percentile_bootstrap():
    rng = np.random.default_rng(1)
    passes = rng.exponential(5.0, 400)
    rows = [{"passes": value, "seconds": 2 * value, "route": "keep"} for value in passes]
    intervals = PassesCallback(rows).intervals(4000, 0)
    found = intervals[HIGH]
    np.testing.assert_allclose(intervals[LATENCY], 2 * np.array(found))
    reference = stats.bootstrap(
        (passes,), partial(np.quantile, q=0.95, method="higher"), n_resamples=4000, method="percentile", rng=rng
    ).confidence_interval
    np.testing.assert_allclose(found, reference, rtol=0.05)


def test_the_interval_of_few_values_is_that_of_all_their_draws():
    values = np.array([3.0, 1.0, 2.0, 2.0, 7.0])
    draws = np.array(list(product(values, repeat=5)))
    for share, level in ((0.5, 0.8), (0.95, 0.5), (0.3, 0.95)):
        every = np.quantile(draws, share, axis=1, method="higher")
        ends = np.quantile(every, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
        assert bootstrap_quantile(values, share, level) == tuple(ends)


def test_intervals_of_many_pictures_need_little_memory():
    rows = [{"passes": float(n), "seconds": 1.0, "route": "keep"} for n in range(20_000)]
    callback = PassesCallback(rows)
    callback.intervals(2)  # imports
    tracemalloc.start()
    callback.intervals(1000)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1000 * 20_000 * 8 / 2  # of a table of all draws


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--steps", "4"], "--steps is for pictures that are to be drawn"),
        (["--prompts", "p.txt"], "--prompts is for pictures that are to be drawn"),
        (["--num-samples", "4"], "--num-samples is for pictures that are to be drawn"),
        (["--config", "c.yaml"], "--config is for checkpoints"),
        (["--metrics", "kid"], "--metrics kid compares with real images; and"),
        (["--metrics", "attributes"], "--metrics needs attributes of every sample"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, more, told):
    folder, _ = drawn(tmp_path / "drawn", 0.5, attributes=False)
    metrics = [] if "--metrics" in more else ["--metrics", "clip_score"]
    assert evaluate.main([str(folder), *metrics, *more, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_folder_that_is_not_whole_is_refused(arguments, tmp_path, capsys):
    argv = [str(tmp_path / "drawn"), *arguments, "--out", str(tmp_path / "out")]
    folder, rows = drawn(tmp_path / "drawn", 0.5, ended=False)
    assert evaluate.main(argv) == 2
    assert "is not drawn to its end (12 pictures of a draw that was stopped); the same" in capsys.readouterr().err
    about = {"policy": "Policy(threshold=0.5)", "seed": 0}
    DrawnFiles(folder, about).gather([row["key"] for row in rows])
    assert read_drawn(folder) == (about, rows)
    lines = (folder / "samples.jsonl").read_text().splitlines(keepends=True)
    (folder / "samples.jsonl").write_text("".join(lines[:7]))
    assert evaluate.main(argv) == 2
    assert "has 7 pictures, which are not those of its last `draw`" in capsys.readouterr().err
    (folder / "samples.jsonl").write_text("".join(lines))
    DrawnFiles(folder, about).gather([row["key"] for row in rows[:4]])  # of fewer prompts, into the same folder
    with pytest.raises(ValueError, match="has 12 pictures, which are not those of its last `draw`"):
        read_drawn(folder)
    DrawnFiles(folder, about)  # goes on, and is killed
    with pytest.raises(ValueError, match="of a draw that was stopped"):
        read_drawn(folder)
    (folder / "samples.1.jsonl").write_text("")
    assert evaluate.main(argv) == 2
    assert "is not drawn to its end (samples.1.jsonl is a part); the same `draw` command" in capsys.readouterr().err
    (folder / "samples.1.jsonl").unlink()
    (folder / "03.png").unlink()
    assert evaluate.main(argv) == 2
    assert "is not drawn to its end (there is no 03.png)" in capsys.readouterr().err
    (folder / "samples.jsonl").write_text("")
    assert evaluate.main(argv) == 2
    assert "is not drawn to its end (it is empty)" in capsys.readouterr().err
