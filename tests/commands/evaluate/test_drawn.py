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

import evaluate
from commands.evaluate.drawn import HIGH, PASSES, REPAIRED, PassesCallback, bootstrap_quantile
from fewstep.collaboration.command_line.drawn_files import DrawnFiles, read_drawn
from fewstep.files.pictures import as_png
from fewstep.rewards.attribute_reader import AttributeReader

NUM, COLOURS = 12, ["red", "green", "blue", "white"]


def drawn(folder, share, attributes=True, ended=True):
    """A folder of pictures as `draw` leaves it, or a killed one; this share of them is repaired."""
    files = DrawnFiles(folder, {"policy": f"Policy(threshold={share})", "seed": 0})
    rng = np.random.default_rng(0)
    rows = [
        {
            "key": f"{n:02d}", "prompt": f"a {COLOURS[n % 4]} square", "route": "refine" if n < share * NUM else "keep",
            "attributes": {"colour": COLOURS[n % 4]} if attributes else None, "drafts": 1, "draft_score": 0.5,
            "score": None, "passes": 2.0 + n / 100 + 10 * (n < share * NUM), "seconds": 0.25,
        }
        for n in range(NUM)
    ]  # fmt: skip
    pictures = [Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for _ in rows]
    files.add(rows, [as_png(picture) for picture in pictures])
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
        assert run["sampling"]["seconds_per_sample"] == 0.25
        assert "test/all_right" in run["intervals"]
        low, high = run["intervals"][PASSES]
        assert low < run["metrics"][PASSES] < high
    assert runs[0]["data"] == runs[1]["data"]
    page = (tmp_path / "out" / "report.html").read_text()
    for title in ("passes through the network per sample", "passes that 95 % of samples stay within", "budget-0.75"):
        assert title in page
    assert "different data" not in page
    assert "passes_p95" in capsys.readouterr().out


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
    rows = [{"passes": value, "route": "keep"} for value in passes]
    found = PassesCallback(rows).intervals(4000, 0)[HIGH]
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
    rows = [{"passes": float(n), "route": "keep"} for n in range(20_000)]
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
