"""Budgets in passes, and files that come back or are refused."""

import json
import math
from dataclasses import replace

import pytest
import torch

from fewstep.backbones import load_latent_diffusion
from fewstep.collaboration.calibration import Calibration, identity
from fewstep.collaboration.cascade import Cascade
from fewstep.collaboration.costs import Costs
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rehearsal import Rehearsal
from fewstep.collaboration.rollback import Rollback
from fewstep.collaboration.strategies import Strategy
from fewstep.collaboration.student import export_sha256, load_a_student
from fewstep.collaboration.teacher import Teacher
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import DiscreteSchedule, RectifiedFlow
from tests.fewstep.collaboration.test_cascade import PROMPTS, SEEDS, redness
from tests.tiny_diffusion import write_pipeline
from tests.tiny_export import write_export

COSTS = Costs(draft=2.0, look=0.5, repair=10.0, decode=0.25, flops=1e6)
POLICY = Policy(-math.inf, "refine", Rollback(0.4, "time"))


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    student = load_a_student(write_pipeline(tmp_path_factory.mktemp("calibration") / "pipeline", "sd_v"))
    return Cascade(student, Teacher(student.model, 3, 2.0), redness, student_steps=2)


@pytest.fixture(scope="module")
def calibration(cascade):
    return Calibration.of(Rehearsal(cascade, PROMPTS, SEEDS), COSTS, POLICY)


@pytest.fixture(scope="module")
def strategy(calibration):
    return calibration.strategies[0]


def test_scores_are_those_of_the_drafts(cascade, calibration, strategy):
    drawn = cascade(PROMPTS, SEEDS, Policy())
    torch.testing.assert_close(strategy.scores, drawn.scores.sort().values.double())
    assert strategy.draws.tolist() == [1] * 10
    assert calibration.for_percentile(0).threshold == -math.inf
    assert calibration.for_percentile(100).threshold == math.inf
    half = calibration.for_percentile(50)
    assert (drawn.scores.double() < half.threshold).sum() == 5
    assert half.repair == "refine"
    assert half.rollback == Rollback(0.4, "time")


def test_a_budget_of_passes_is_kept(calibration, strategy):
    """A draft and a look take 2.5, a repair 10 and the decoder: 7.6 leave 5.1 of 10.25, of 11 places 5."""
    assert strategy.draft_passes == 2.5
    assert strategy.repair_passes == 10.25
    policy = calibration.for_passes(7.6)
    assert policy.threshold == strategy.scores[4].item()
    expected = 2.5 + (strategy.scores < policy.threshold).double().mean().item() * 10.25
    assert expected <= 7.6
    assert calibration.for_passes(2.5).threshold == -math.inf
    assert calibration.for_passes(12.75).threshold == math.inf
    assert calibration.for_passes(99).threshold == math.inf
    with pytest.raises(ValueError, match=r"mean_passes=2: drafts and the oracle alone take 2\.5; give more"):
        calibration.for_passes(2)
    with pytest.raises(ValueError, match="mean_passes=0: must be above 0"):
        calibration.for_passes(0)
    with pytest.raises(ValueError, match="the policy repairs nothing"):
        replace(strategy, policy=Policy(repair="keep")).for_passes(5)
    assert strategy.passes_at_most(0.5) > 2.5 + 0.5 * 10.25


def test_scores_that_no_file_holds_are_refused(cascade):
    endless = replace(cascade, oracle=lambda images, asked: images[:, 0, 0, 0] / 0)
    with pytest.raises(ValueError, match=r"the oracle's scores are not all finite, such as -?inf"):
        Calibration.of(Rehearsal(endless, PROMPTS, SEEDS), COSTS, POLICY)


def test_several_drafts_cost_what_they_took(cascade, strategy):
    median = strategy.scores.median().item()
    rehearsal = Rehearsal(cascade, PROMPTS, SEEDS)
    found = Strategy.of(rehearsal, COSTS, replace(POLICY, drafts=3, good_enough=median), with_repairs=False)
    assert found.draft_passes == found.draws.double().mean().item() * 2.5 > 2.5
    assert found.scores.min() >= strategy.scores.min()
    with pytest.raises(ValueError, match="drafts=3: say what score is good_enough"):
        Strategy.of(rehearsal, COSTS, replace(POLICY, drafts=3), with_repairs=False)


def test_looking_at_repairs_costs_a_look(strategy):
    assert replace(strategy, policy=replace(POLICY, keep_best=True)).repair_passes == 10.5


def test_a_file_comes_back_as_it_was(calibration, strategy, tmp_path):
    repaired = torch.where(strategy.scores > strategy.scores.median(), torch.nan, strategy.scores + 0.1)
    for threshold in (-math.inf, math.inf, 0.25):
        policy = replace(POLICY, threshold=threshold, drafts=2, good_enough=0.5)
        several = (replace(strategy, policy=policy), replace(strategy, repaired=repaired))
        replace(calibration, strategies=several).save(tmp_path / "deep" / "calibration.json")
        found = Calibration.load(tmp_path / "deep" / "calibration.json")
        assert (found.about, found.prompts, found.costs) == (calibration.about, calibration.prompts, COSTS)
        assert [each.policy for each in found.strategies] == [policy, POLICY]
        for each in found.strategies:
            assert torch.equal(each.scores, strategy.scores)
            assert torch.equal(each.draws, strategy.draws)
        assert found.strategies[0].repaired is None
        torch.testing.assert_close(found.strategies[1].repaired, repaired, equal_nan=True, atol=0, rtol=0)


def test_another_cascade_is_refused_and_told_why(cascade, calibration, tmp_path):
    calibration.check(cascade)
    with pytest.raises(ValueError, match=r"the calibration is of student steps 2, this is 1; calibrate again"):
        calibration.check(replace(cascade, student_steps=1))
    with pytest.raises(ValueError, match="the calibration is of oracle redness, this is test_another_cascade"):
        calibration.check(replace(cascade, oracle=lambda images, asked: images.mean((1, 2, 3))))
    other = load_a_student(write_pipeline(tmp_path / "other", "sd"))
    with torch.no_grad():
        next(other.model.network.parameters()).add_(1)
    fresh = load_a_student(other_folder(tmp_path, other))
    with pytest.raises(ValueError, match=r"the calibration is of student [0-9a-f]{16}, this is [0-9a-f]{16}"):
        calibration.check(replace(cascade, student=fresh))
    assert set(identity(cascade)) == set(calibration.about)


def test_the_teachers_other_parts_belong_to_its_identity(cascade, calibration, tmp_path):
    folder = write_pipeline(tmp_path, "sd_v")
    for part in (None, "autoencoder", "prompts"):
        model = load_latent_diffusion(folder)  # another object of the same weights, but for one of them
        if part is not None:
            network = (
                model.latents.autoencoder if part == "autoencoder" else next(iter(model.prompts.networks.values()))
            )
            with torch.no_grad():
                next(network.parameters()).add_(1)
        changed = replace(cascade, teacher=replace(cascade.teacher, model=model))
        if part is None:
            calibration.check(changed)
            continue
        with pytest.raises(ValueError, match=r"is of teacher's autoencoder and text encoders [0-9a-f ]+, this is"):
            calibration.check(changed)


@pytest.mark.parametrize(
    ("whose", "parametrization"),
    [
        ("teacher", Parametrization(DiscreteSchedule(), "eps")),
        ("teacher", Parametrization(DiscreteSchedule(beta_end=0.0121), "v")),
        ("student", Parametrization(DiscreteSchedule(num_train_timesteps=999), "v")),
        ("student", Parametrization(RectifiedFlow(), "v")),
    ],
)
def test_schedule_and_prediction_belong_to_the_identity(cascade, calibration, whose, parametrization):
    network = getattr(cascade, whose)
    same = replace(network.model, parametrization=Parametrization(DiscreteSchedule(), "v"))
    calibration.check(replace(cascade, **{whose: replace(network, model=same)}))
    changed = replace(network, model=replace(network.model, parametrization=parametrization))
    with pytest.raises(ValueError, match=f"the calibration is of {whose} schedule v [0-9a-f]{{16}}, this is "):
        calibration.check(replace(cascade, **{whose: changed}))


def test_what_an_export_says_of_its_weights_is_part_of_its_hash(tmp_path):
    """Other times, or an edited alpha, give other drafts of the same tensors; a remark does not."""
    folder = write_export(tmp_path)
    before, file = load_a_student(folder).sha256, folder / "icd.json"
    content = json.loads(file.read_text())
    assert export_sha256(folder, {"remark": "of no effect"} | content) == before
    for block, change in (
        ("students", {"alpha": 4.0}),
        ("boundaries", {"times": [0.0, 0.3, 0.52, 0.78, 1.0], "reverse_times": None}),
    ):
        assert export_sha256(folder, content | {block: content[block] | change}) != before
    file.write_text(json.dumps(content | {block: content[block] | change}))
    assert load_a_student(folder).sha256 == export_sha256(folder, json.loads(file.read_text())) != before


def test_a_rollback_that_the_schedule_does_not_reach_is_refused_before_a_draft(cascade, monkeypatch):
    monkeypatch.setattr(Cascade, "drafted", None)
    with pytest.raises(ValueError, match=r"rollback_variance=0.999: the schedule ends with less noise; regenerate"):
        Calibration.of(Rehearsal(cascade, PROMPTS, SEEDS), COSTS, Policy(rollback=Rollback(0.999)))


def other_folder(tmp_path, student):
    return write_pipeline(tmp_path / "changed", "sd_v", student.model.network)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 1}, "schema 1"),
        ({"about": {"student": 3}}, "about.student is 3, expected a text"),
        ({"costs": {}}, "costs has no "),
        ({"strategies": []}, "with 0 strategies"),
        ({"strategies": [{}]}, r"strategies\[0\] has no "),
    ],
)
def test_a_file_that_is_none_is_one_line(calibration, tmp_path, change, told):
    file = tmp_path / "calibration.json"
    calibration.save(file)
    refused(file, json.loads(file.read_text()) | change, told)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"scores": [2.0, 1.0]}, "2 scores, 10 draws"),
        ({"scores": [float(-n) for n in range(10)]}, "its scores do not rise"),
        ({"scores": ["a"] * 10}, r"scores\[0\] is 'a', expected a number"),
        ({"draws": [-1] * 10}, r"draws\[0\] is -1, expected a whole number"),
        ({"repaired": [1.0, "nan"]}, "10 scores, 10 draws and 2 repaired"),
        ({"repaired": ["inf"] * 10}, r"repaired\[0\] is 'inf', expected a number"),
        ({"policy": {}}, "policy has no "),
    ],
)
def test_a_strategy_that_is_none_is_one_line(calibration, tmp_path, change, told):
    file = tmp_path / "calibration.json"
    calibration.save(file)
    content = json.loads(file.read_text())
    refused(file, content | {"strategies": [content["strategies"][0] | change]}, told)


def refused(file, content, told):
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=told) as caught:
        Calibration.load(file)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"cannot read the calibration {file}")


def test_policies_in_a_file_are_checked(calibration, tmp_path):
    file = tmp_path / "calibration.json"
    calibration.save(file)
    content = json.loads(file.read_text())
    strategy = content["strategies"][0]
    for name, value in (("rollback", 1.5), ("rollback_kind", "strength"), ("repair", "burn"), ("threshold", "high")):
        changed = strategy | {"policy": strategy["policy"] | {name: value}}
        refused(file, content | {"strategies": [changed]}, "cannot read the calibration")
    with pytest.raises(ValueError, match=r"cannot read the calibration .*missing\.json"):
        Calibration.load(tmp_path / "missing.json")
