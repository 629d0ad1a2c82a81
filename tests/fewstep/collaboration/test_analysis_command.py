"""`analyse` on a tiny pipeline: what it draws, tells, leaves out and refuses; and what a report says of known pairs."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.collaboration.__main__ import DISTANCES, main
from fewstep.collaboration.analysis import command as analysis_command
from fewstep.collaboration.analysis.command import report, summary
from fewstep.collaboration.analysis.covariates import DISTANCES as KNOWN
from fewstep.collaboration.analysis.covariates import complexity, root_mean_square, teacher_curvature
from fewstep.collaboration.analysis.pairs import Pairs, draw_pairs
from fewstep.collaboration.analysis.plot import draw
from fewstep.collaboration.analysis.wins import outcomes, win_shares
from fewstep.collaboration.cascade import Cascade
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.student import load_a_student
from fewstep.collaboration.teacher import Teacher
from fewstep.rewards.attribute_reader import AttributeReader
from tests.fewstep.collaboration.test_cascade import own_noise, redness
from tests.tiny_diffusion import CAPTIONS, write_pipeline

COLOURS = {"colour": ["red", "green", "blue", "white"]}
PROMPTS, SEEDS = [CAPTIONS[n % 4] for n in range(7)], [f"0:{n:02d}" for n in range(7)]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """(pipeline, three readers of colours as they are made, prompts)."""
    folder = tmp_path_factory.mktemp("analysis")
    readers = []
    for seed in range(3):
        torch.manual_seed(seed)
        reader = AttributeReader(COLOURS, "convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}, 32)
        reader.save_pretrained(folder / f"reader{seed}")
        readers.append(f"attributes={folder / f'reader{seed}'}")
    rows = [
        {"prompt": prompt, "key": f"{n:02d}", "attributes": {"colour": COLOURS["colour"][n % 4]}}
        for n, prompt in enumerate(PROMPTS)
    ]
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return write_pipeline(folder / "pipeline", "sd_v"), readers, str(prompts)


def command(places, out, *more):
    pipeline, (oracle, *judges), prompts = places
    given = ["--teacher", pipeline, "--oracle", oracle, "--prompts", prompts, "--distance", "pixels"]
    given += ["--student-steps", "2", "--teacher-steps", "3", "--teacher-scale", "2", "--batch-size", "3"]
    return ["analyse", pipeline, *given, "--judge", judges[0], "--judge", judges[1], "--out", str(out), *more]


def blueness(images, asked):
    return images[:, 2].mean((1, 2))


@pytest.fixture(scope="module")
def cascade(places):
    from fewstep.backbones import load_latent_diffusion

    return Cascade(load_a_student(places[0]), Teacher(load_latent_diffusion(places[0]), 3, 2.0), redness, 2)


def drawn_pairs(cascade, **judges):
    asked = dict.fromkeys(("oracle", *judges), PROMPTS)
    return draw_pairs(cascade, judges, PROMPTS, SEEDS, asked, root_mean_square, 4)


def test_pairs_share_their_noise_and_the_null_does_not(cascade):
    found = drawn_pairs(cascade, blue=blueness)
    drawn = cascade(PROMPTS, SEEDS, Policy(math.inf, "regenerate"))
    sides = [blueness(images, PROMPTS).double() for images in (drawn.draft_images, drawn.images)]
    torch.testing.assert_close(found.judges["blue"][:, :2], torch.stack(sides, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.oracle[:, 1].float(), redness(drawn.images, PROMPTS), atol=1e-5, rtol=0)
    again = found.judges["blue"][:, 2]
    assert (again - sides[1]).abs().min() > 1e-4
    other = cascade(PROMPTS, [f"{seed}, other noise" for seed in SEEDS], Policy(math.inf, "regenerate"))
    torch.testing.assert_close(again.float(), blueness(other.images, PROMPTS), atol=1e-5, rtol=0)
    expected = root_mean_square(drawn.draft_images, drawn.images).double()
    torch.testing.assert_close(found.covariates["distance"], expected, atol=1e-5, rtol=1e-4)
    assert found.covariates["complexity"].tolist() == pytest.approx(complexity(drawn.images).tolist(), rel=0.02)
    tokenizer = cascade.teacher.model.prompts.tokenizer
    assert found.covariates["prompt length"].tolist() == [len(tokenizer.tokenize(prompt)) for prompt in PROMPTS]
    condition = cascade.teacher.model.prompts(PROMPTS)
    bent = teacher_curvature(cascade.teacher, own_noise(SEEDS)[0], condition, 4)
    torch.testing.assert_close(found.covariates["curvature"].float(), bent, rtol=1e-3, atol=1e-4)
    assert bent.min() > 0


def test_pairs_do_not_depend_on_their_batch(cascade):
    one, other = (drawn_pairs(replace(cascade, batch_size=size), blue=blueness) for size in (3, 7))
    torch.testing.assert_close(one.judges["blue"], other.judges["blue"], atol=1e-5, rtol=1e-4)
    for name, values in one.covariates.items():
        torch.testing.assert_close(values, other.covariates[name], atol=1e-3, rtol=0.02)


def test_a_score_that_is_no_number_ends_it(cascade):
    with pytest.raises(ValueError, match="judge odd is -inf for a picture"):
        drawn_pairs(cascade, odd=lambda images, asked: blueness(images, asked) - math.inf)
    with pytest.raises(ValueError, match="judge odd returned NaN for 7 of 7 pictures"):
        drawn_pairs(cascade, odd=lambda images, asked: blueness(images, asked) * math.nan)


def test_the_command_writes_numbers_lines_and_a_plot(places, tmp_path, capsys):
    out = tmp_path / "analysis"
    assert main(command(places, out, "--tie-share", "0.2", "--curvature-steps", "2")) == 0
    told = capsys.readouterr().out
    found = json.loads((out / "analysis.json").read_text())
    rows = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert [(row["key"], row["prompt"]) for row in rows] == [(f"{n:02d}", CAPTIONS[n % 4]) for n in range(7)]
    assert set(rows[0]["covariates"]) == {"distance", "complexity", "prompt length", "curvature"}
    for name, judged in found["judges"].items():
        scores = torch.tensor(
            [[row["judges"][name][s] for s in ("student", "teacher", "teacher_again")] for row in rows]
        )
        student, teacher, again = scores.double().T
        outcome = outcomes(student, teacher, judged["tie_band"])
        winner = {1: "student", -1: "teacher", 0: "tie"}
        assert [row["judges"][name]["winner"] for row in rows] == [winner[value] for value in outcome.tolist()]
        for key, other in (("shares", student), ("null", again)):
            shares = win_shares(outcomes(other, teacher, judged["tie_band"]))
            assert judged[key]["student"]["cases"] == shares.student.cases
            assert judged[key]["tie"]["cases"] == shares.tie.cases
        assert judged["shares"]["tie"]["cases"] == 1  # a fifth of 7
        correlation = torch.corrcoef(scores.T)[0, 1].item()
        assert judged["correlation_with_teacher"]["student"] == pytest.approx(correlation, abs=1e-4)
        groups = judged["trends"]["distance"]["groups"]
        assert [group["won"]["num"] for group in groups] == [2, 1, 1, 1, 2]
        assert f"{name}: student, teacher, ties: " in told
    assert len(found["about"]["judges"]) == 2
    assert found["about"]["teacher steps"] == "3"
    assert "left out in" in told  # the regression of so few
    pixels = np.asarray(Image.open(out / "analysis.png").convert("L"))
    assert pixels.std() > 10
    assert main(command(places, out)) == 2
    assert f"--out {out} holds something; name another folder, or give --overwrite" in capsys.readouterr().err
    before = (out / "pairs.jsonl").read_bytes()
    assert main(command(places, out, "--tie-share", "0.2", "--curvature-steps", "2", "--overwrite")) == 0
    assert (out / "pairs.jsonl").read_bytes() == before


def test_a_killed_analysis_goes_on_and_is_the_same(places, tmp_path, monkeypatch, capsys):
    more = ["--tie-share", "0.2", "--curvature-steps", "2"]
    assert main(command(places, tmp_path / "whole", *more)) == 0
    out, drawn, batches = tmp_path / "killed", Cascade.__call__, []

    def killed(self, prompts, *rest, **options):
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(len(prompts))
        return drawn(self, prompts, *rest, **options)

    monkeypatch.setattr(Cascade, "__call__", killed)
    assert main(command(places, out, *more)) == 130
    assert [path.name for path in out.iterdir()] == ["unfinished.jsonl"]
    with (out / "unfinished.jsonl").open("a") as file:
        file.write('{"place": 6, "val')  # what a kill leaves of a line
    monkeypatch.setattr(Cascade, "__call__", drawn)
    capsys.readouterr()
    for changes, told in (
        (["--seed", "1"], "unfinished.jsonl is of seed 0, this is of 1; name another --out, or give --overwrite"),
        (["--curvature-steps", "3"], "is of curvature steps 2, this is of 3"),
        (["--student-steps", "1"], "is of student steps 2, this is of 1"),
    ):
        assert main(command(places, out, *more, *changes)) == 2
        assert told in capsys.readouterr().err
    sizes = []
    monkeypatch.setattr(
        Cascade,
        "__call__",
        lambda self, prompts, *rest, **o: (sizes.append(len(prompts)), drawn(self, prompts, *rest, **o))[1],
    )
    assert main(command(places, out, *more)) == 0
    assert (batches, sizes) == ([3, 3], [1])
    for name in ("pairs.jsonl", "analysis.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (out / "unfinished.jsonl").exists()
    assert main(command(places, out, *more)) == 2
    assert "holds something; name another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda argv, readers: [*argv[: argv.index("--judge")], "--judge", readers[1]],
            "one --judge shows no agreement",
        ),
        (lambda argv, readers: [*argv, "--judge", readers[0]], "is given twice: oracle and judges must be different"),
        (lambda argv, readers: [*argv, "--judge", readers[1]], "is given twice"),
        (lambda argv, readers: [*argv, "--tie-share", "1"], "tie share=1.0: must be below 1"),
        (lambda argv, readers: [*argv, "--tie-share", "-1"], "tie share=-1.0: must be at least 0"),
        (lambda argv, readers: [*argv, "--curvature-steps", "-1"], "curvature steps=-1: must be at least 0"),
        (lambda argv, readers: [*argv, "--judge", "taste"], "oracle 'taste': choose one of"),
    ],
)
def test_mistakes_are_one_line_before_a_picture_is_drawn(places, tmp_path, monkeypatch, capsys, change, told):
    monkeypatch.setattr(analysis_command, "draw_pairs", None)
    argv = command(places, tmp_path / "analysis")
    assert main([*change(argv, places[1]), "--out", str(tmp_path / "analysis")]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "analysis").exists()


def test_names_are_told_before_anything_is_imported():
    assert set(DISTANCES) == set(KNOWN)


def known_pairs(noise, num=2000):
    """Qualities of which judges see so much noise; the student is better where the pictures are far apart."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    hard, distance = normal(num), normal(num).abs()
    quality = torch.stack([hard + distance - 1.2, hard, hard], 1) + normal(num, 3) / 2
    judges = {name: quality + noise * normal(num, 3) for name in ("clip=folder/one", "attributes=folder/two")}
    covariates = {"distance": distance, "complexity": hard + normal(num), "prompt length": torch.full((num,), 4.0)}
    return Pairs(quality[:, :2], judges, covariates)


def test_a_report_finds_what_is_there(tmp_path):
    told, outcome = report(known_pairs(0.2), 0.13)
    json.dumps(told, allow_nan=False)
    assert told["claim"]
    assert told["agreement"][0]["share"]["value"] > 0.85
    for name, judged in told["judges"].items():
        assert judged["shares"]["tie"]["cases"] == 260 == (outcome[name] == 0).sum()
        assert judged["null"]["untied"]["low"] < 0.5 < judged["null"]["untied"]["high"]
        assert judged["shares"]["untied"]["high"] < 0.45
        assert judged["trends"]["distance"]["z"] > 15
        assert judged["trends_untied"]["distance"]["z"] > 15
        assert abs(judged["trends"]["complexity"]["z"]) < 4
        effects = judged["logistic_regression"]
        assert list(effects) == ["intercept", "distance", "complexity"]  # the length is the same for all
        assert effects["distance"]["low"] > 0.5
        gap, alone = judged["auc_untied"]["student's less teacher's score"], judged["auc_untied"]["student's score"]
        assert gap["low"] > 0.9 > alone["high"]
        assert judged["plan"]["best_gain"] > judged["plan"]["gain"] > 0
    assert abs(told["spearman"]["distance and complexity"]["value"]) < 0.08
    lines = summary(told)
    assert any(line.startswith("student wins from low to high distance") for line in lines)
    assert not any("nothing is claimed" in line for line in lines)
    draw(told, tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").size[0] > 1000


def test_where_judges_disagree_nothing_is_claimed_of_any_covariate(tmp_path):
    told, _ = report(known_pairs(4.0), 0.13)
    assert not told["claim"]
    assert told["agreement"][0]["share"]["high"] < 0.7
    lines = summary(told)
    assert any("below 70%, so nothing is claimed" in line for line in lines)
    assert not any(line.startswith("student wins") for line in lines)
    draw(told, tmp_path / "plot.png")


def test_equal_scores_are_all_ties_and_still_a_report(tmp_path):
    pairs = known_pairs(0.2, 40)
    pairs = replace(pairs, judges={name: torch.ones_like(scores) for name, scores in pairs.judges.items()})
    told, _ = report(pairs, 0.13)
    json.dumps(told, allow_nan=False)
    assert told["agreement"][0]["share"] is None
    assert not told["claim"]
    judged = told["judges"]["clip=folder/one"]
    assert judged["shares"]["untied"] is None
    assert judged["correlation_with_teacher"]["student"] is None
    assert all("left_out" in part for part in (judged["plan"], judged["logistic_regression"]))
    assert "have no pair that neither calls a tie: below 70%, so nothing is claimed" in "\n".join(summary(told))
    draw(told, tmp_path / "plot.png")
