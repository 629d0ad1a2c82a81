"""Every way of a sweep against the cascade, the teacher and the student themselves."""

import math
from dataclasses import replace

import pytest
import torch

from fewstep.collaboration.calibration import Calibration
from fewstep.collaboration.cascade import Cascade
from fewstep.collaboration.costs import Costs
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rehearsal import Judge, Rehearsal
from fewstep.collaboration.rollback import Rollback
from fewstep.collaboration.strategies import Strategy
from fewstep.collaboration.student import load_a_student
from fewstep.collaboration.sweep.command import even_budgets, table
from fewstep.collaboration.sweep.ways import sweep
from fewstep.collaboration.teacher import Teacher
from tests.fewstep.collaboration.test_cascade import PROMPTS, SEEDS, redness
from tests.tiny_diffusion import write_pipeline

COSTS = Costs(draft=2.0, look=0.5, repair=6.0, decode=0.25, flops=1e6)


def blueness(images, asked):
    return images[:, 2].mean((1, 2))


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    student = load_a_student(write_pipeline(tmp_path_factory.mktemp("sweep") / "pipeline", "sd_v"))
    return Cascade(student, Teacher(student.model, 3, 2.0), redness, student_steps=2, batch_size=4)


@pytest.fixture(scope="module")
def calibration(cascade):
    rehearsal = Rehearsal(cascade, PROMPTS, [f"known {number}" for number in range(10)])
    return Calibration.of(rehearsal, COSTS, Policy(repair="refine", rollback=Rollback(0.6)))


@pytest.fixture(scope="module")
def ways(cascade, calibration):
    rehearsal = Rehearsal(cascade, PROMPTS, SEEDS, judges={"blue": Judge(blueness, PROMPTS)})
    found = sweep(rehearsal, calibration, [5.0], most_drafts=4, teacher_steps=[2, 3], rollbacks=[0.6])
    return {way.name: way for way in found}


def same(way, images):
    torch.testing.assert_close(way.scores["oracle"], redness(images, SEEDS).double(), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(way.scores["blue"], blueness(images, SEEDS).double(), atol=2e-5, rtol=1e-4)


def test_ways_without_a_teacher(cascade, ways):
    drafts = cascade(PROMPTS, SEEDS, Policy())
    same(ways["student"], drafts.images)
    assert set(ways["student"].passes.tolist()) == {2.25}  # the decoder, and no oracle
    best = cascade(PROMPTS, SEEDS, Policy(repair="keep", drafts=4, good_enough=math.inf))
    same(ways["best of 4"], best.images)
    assert set(ways["best of 4"].passes.tolist()) == {10.0}
    assert (ways["best of 4"].scores["oracle"] >= ways["best of 2"].scores["oracle"]).all()
    assert "best of 8" not in ways


@pytest.mark.parametrize("steps", [2, 3])
def test_the_teacher_alone(cascade, ways, steps):
    noise, _ = cascade.noise(SEEDS, [0] * 10)
    latents = Teacher(cascade.teacher.model, steps, 2.0).generate(noise, cascade.teacher.model.prompts(PROMPTS))
    same(ways[f"teacher {steps}"], cascade.teacher.model.latents.decode(latents))
    assert set(ways[f"teacher {steps}"].passes.tolist()) == {2.0 * steps + 0.25}


def test_refining_everything(cascade, ways):
    same(ways["refine everything 0.6"], cascade(PROMPTS, SEEDS, Policy(math.inf, "refine", Rollback(0.6))).images)
    assert set(ways["refine everything 0.6"].passes.tolist()) == {2 + 6 + 0.25}


def test_a_calibrated_policy_and_its_random_twin(cascade, calibration, ways):
    policy = calibration.for_passes(5.0)
    drawn = cascade(PROMPTS, SEEDS, policy)
    same(ways["adaptive 5"], drawn.images)
    expected = 2.5 + drawn.repaired.double() * 6.25
    assert torch.equal(ways["adaptive 5"].passes, expected)
    assert ways["random 5"].passes.mean() == pytest.approx(expected.mean().item())
    share = drawn.repaired.double().mean()
    assert 0 < share < 1
    always = redness(cascade(PROMPTS, SEEDS, Policy(math.inf, "refine", Rollback(0.6))).images, SEEDS)
    lot = (1 - share) * drawn.draft_scores + share * always
    torch.testing.assert_close(ways["random 5"].scores["oracle"], lot.double(), atol=2e-5, rtol=1e-4)


def test_the_random_twin_of_drawing_again_is_the_student(cascade, calibration):
    """Whose drafts are drawn again by lot is as good as the first; with the oracle it is better."""
    rehearsal, first = Rehearsal(cascade, PROMPTS, SEEDS), calibration.strategies[0]
    again = Policy(repair="keep", drafts=4, good_enough=first.scores.median().item())
    strategy = Strategy(again, COSTS, first.scores, torch.full((10,), 2), first.scores)
    other = replace(calibration, strategies=(strategy, replace(strategy, policy=replace(again, drafts=3))))
    found = {way.name: way for way in sweep(rehearsal, other, [6.0], most_drafts=1)}
    assert torch.equal(found["random 6"].scores["oracle"], found["student"].scores["oracle"])
    assert found["adaptive 6"].scores["oracle"].mean() > found["student"].scores["oracle"].mean()
    assert found["random 6"].passes.mean() == pytest.approx(found["adaptive 6"].passes.mean().item())
    row = found["random 6"].row()
    assert row["passes_p95"] is None
    assert table([row, found["student"].row()])[-1].split()[:4] == ["random", "6", f"{row['passes']:.2f}", "-"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"budgets": [0.1]}, "mean_passes=0.1: drafts and the oracle alone take 2.5"),
        ({"rollbacks": [1.5]}, r"1\.5"),
        ({"most_drafts": 0}, "best of=0: must be at least 1 and at most 1000"),
        ({"teacher_steps": [4, 0]}, "teacher steps=0: must be at least 1"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_drawn(cascade, calibration, monkeypatch, options, told):
    monkeypatch.setattr(Cascade, "drafted", None)
    monkeypatch.setattr(Cascade, "improved", None)
    with pytest.raises(ValueError, match=told):
        sweep(Rehearsal(cascade, PROMPTS, SEEDS), calibration, **{"budgets": [5.0], **options})


def test_rows_and_their_table(calibration, ways):
    rows = [way.row() for way in ways.values()]
    row = ways["adaptive 5"].row()
    mean, low, high = row["scores"]["blue"]
    assert low <= mean <= high
    assert mean == pytest.approx(sum(row["values"]["blue"]) / 10)
    assert row["passes_p95"] == pytest.approx(8.75)
    assert row["repaired"] == ways["adaptive 5"].repaired.mean()
    lines = table(rows)
    assert len(lines) == len(rows) + 1
    assert lines[1].startswith("student ")
    budgets = even_budgets(calibration)
    assert (budgets[0], budgets[-1]) == (2.5, 8.75)
