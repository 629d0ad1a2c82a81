"""Edits by the cascade: against diffusers' image-to-image pipeline, and at both ends of the strength."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline

from fewstep.backbones import load_latent_diffusion
from fewstep.collaboration.calibration import Calibration
from fewstep.collaboration.cascade import Cascade
from fewstep.collaboration.costs import measured_costs
from fewstep.collaboration.pipeline import Collaboration
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rehearsal import Rehearsal
from fewstep.collaboration.rollback import EditStrength, Rollback
from fewstep.collaboration.strategies import menu
from fewstep.collaboration.student import load_a_student
from fewstep.collaboration.teacher import Teacher
from fewstep.diffusion.schedules import add_noise
from fewstep.rng import PerSampleRng
from tests.fewstep.collaboration.test_cascade import ALIKE, PROMPTS, SEEDS, own_noise, pictures, redness
from tests.tiny_diffusion import batch, write_pipeline
from tests.tiny_export import write_export

SOURCES = batch(range(10))["image"].flip(0)
HALF = EditStrength(0.5, "time")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("editing") / "teacher", "sd_v")


@pytest.fixture(scope="module")
def drawing(folder):
    teacher = Teacher(load_latent_diffusion(folder), 2, 2.0, "ddim")
    return Cascade(load_a_student(folder), teacher, redness, student_steps=2, batch_size=4)


@pytest.fixture(scope="module")
def editing(drawing):
    return replace(drawing, edit=HALF)


@pytest.fixture(scope="module")
def drafts(editing):
    return editing(PROMPTS, SEEDS, Policy(), sources=SOURCES)


def test_drawing_anew_is_the_image_to_image_pipeline_of_diffusers(folder, editing):
    result = editing(PROMPTS[:4], SEEDS[:4], Policy(math.inf, "regenerate"), sources=SOURCES[:4])
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    model = editing.teacher.model
    theirs = pipeline(
        PROMPTS[:4], image=model.latents.encode(SOURCES[:4]), strength=0.5, num_inference_steps=4, guidance_scale=2.0,
        generator=PerSampleRng(0, SEEDS[:4]).generators, output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(result.images, pictures(editing, theirs), atol=1e-4, rtol=1e-3)
    assert result.repaired.all()


def test_a_draft_is_the_chain_from_the_noised_source(editing, drafts):
    """By hand: noise up to the middle, a prediction of the data, noise up to a quarter, another one."""
    model = editing.student.model
    noise, rng = own_noise(SEEDS)
    times = [torch.full((10,), time) for time in (0.5, 0.25)]
    condition, predicted = model.prompts(PROMPTS), model.latents.encode(SOURCES)
    for t, fresh in zip(times, (noise, rng.normal(4, 8, 8)), strict=True):
        x = add_noise(model.parametrization.schedule, predicted, fresh, t)
        with torch.no_grad():
            answer = editing.student.denoiser(x, t, torch.ones(10), condition)
        predicted = model.parametrization.data(x, answer, t)
    torch.testing.assert_close(drafts.images, pictures(editing, predicted), **ALIKE)
    assert torch.equal(drafts.scores, redness(drafts.images, PROMPTS))
    assert (drafts.seconds > 0).all()


def test_refining_goes_on_from_the_draft(editing, drafts):
    policy = Policy(math.inf, "refine", Rollback(0.4))
    result = editing(PROMPTS[:4], SEEDS[:4], policy, sources=SOURCES[:4])
    model, (noise, rng) = editing.student.model, own_noise(SEEDS[:4])
    condition = model.prompts(PROMPTS[:4])
    latents = editing.student.edit(model.latents.encode(SOURCES[:4]), noise, condition, rng, HALF, 2)
    torch.testing.assert_close(pictures(editing, latents), drafts.images[:4], **ALIKE)
    fresh = PerSampleRng(0, [f"{seed}, teacher" for seed in SEEDS[:4]]).normal(4, 8, 8)
    expected = pictures(editing, editing.teacher.refine(latents, fresh, condition, Rollback(0.4)))
    torch.testing.assert_close(result.images, expected, **ALIKE)


@pytest.mark.parametrize("repair", ["keep", "regenerate"])
def test_of_no_strength_the_picture_stays(drawing, repair):
    """As the autoencoder shows it."""
    policy = Policy(math.inf, repair)
    shown = pictures(drawing, drawing.student.model.latents.encode(SOURCES))
    errors = []
    for time in (0.1, 0.001, 1e-9):
        cascade = replace(drawing, edit=EditStrength(time, "time"))
        errors.append((cascade(PROMPTS, SEEDS, policy, sources=SOURCES).images - shown).abs().max().item())
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 2e-3
    assert errors[0] > 0.1


@pytest.mark.parametrize("repair", ["keep", "refine", "regenerate"])
def test_of_full_strength_it_is_drawn_from_noise(tmp_path, repair):
    """Where the schedule ends in nothing but noise, as that of flows does."""
    folder = write_pipeline(tmp_path, "sd3_without_t5")
    teacher = Teacher(load_latent_diffusion(folder), 3, 2.0, "ddim")  # dpm_solver tells an infinite log-SNR from a huge
    drawing = Cascade(load_a_student(folder), teacher, redness, 2)
    policy = Policy(math.inf, repair)
    plain = drawing(PROMPTS[:4], SEEDS[:4], policy).images
    errors = []
    for time in (0.9, 1 - 1e-7):
        cascade = replace(drawing, edit=EditStrength(time, "time"))
        errors.append((cascade(PROMPTS[:4], SEEDS[:4], policy, sources=SOURCES[:4]).images - plain).abs().max().item())
    assert errors[1] < 1e-4
    assert errors[0] > 0.01


def test_of_full_strength_a_trace_stays_where_the_schedule_keeps_one(editing):
    """Stable Diffusion's ends with a little of the data: the source that makes up for it is drawn from noise."""
    student, (noise, rng) = editing.student, own_noise(SEEDS)
    condition, almost = student.model.prompts(PROMPTS), EditStrength(1 - 1e-7, "time")
    alpha, sigma = student.model.parametrization.schedule(torch.tensor(1.0))
    assert alpha > 0.05
    edited = student.edit(noise * (1 - sigma) / alpha, noise, condition, rng, almost, 2)
    noise, rng = own_noise(SEEDS)
    torch.testing.assert_close(edited, student.draw(noise, condition, rng, 2), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("repair", ["refine", "regenerate"])
def test_what_an_edit_becomes_does_not_depend_on_its_batch(editing, drafts, repair):
    policy = Policy(drafts.scores.sort().values[4:6].mean().item(), repair, drafts=2)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0)).tolist()
    found = []
    for size, places in ((4, range(10)), (1, range(10)), (7, order)):
        cascade, chosen = replace(editing, batch_size=size), list(places)
        result = cascade([PROMPTS[p] for p in chosen], [SEEDS[p] for p in chosen], policy, sources=SOURCES[chosen])
        back = torch.tensor(chosen).argsort()
        found.append([result.images[back], result.drafts[back], result.repaired[back]])
    assert found[0][2].any()
    assert not found[0][2].all()
    for other in found[1:]:
        torch.testing.assert_close(other[0], found[0][0], **ALIKE)
        assert torch.equal(other[1], found[0][1])
        assert torch.equal(other[2], found[0][2])


def test_the_oracle_is_told_the_target(editing):
    seen = []
    cascade = replace(editing, oracle=lambda images, asked: (seen.extend(asked), images.mean((1, 2, 3)))[1])
    cascade(PROMPTS[:2], SEEDS[:2], Policy(), sources=SOURCES[:2])
    assert seen == PROMPTS[:2]


@pytest.mark.parametrize("repair", ["refine", "regenerate"])
def test_a_rehearsal_plays_what_the_cascade_makes(editing, drafts, repair):
    policy = Policy(drafts.scores.median().item() + 1e-4, repair, drafts=2, keep_best=True)
    played = Rehearsal(editing, PROMPTS, SEEDS, sources=SOURCES).play(policy)
    result = editing(PROMPTS, SEEDS, policy, sources=SOURCES)
    torch.testing.assert_close(played.scores["oracle"], result.scores.double(), **ALIKE)
    assert torch.equal(played.drafts, result.drafts)


def test_a_source_is_encoded_once_and_that_is_counted(editing):
    costs = measured_costs(editing.student, 2, editing.teacher, redness, PROMPTS[0], edits=True)
    plain = measured_costs(editing.student, 2, editing.teacher, redness, PROMPTS[0])
    assert plain.encode == 0
    assert 0.01 < costs.encode < 10
    assert replace(costs, encode=0.0) == plain
    seen, policy = [], Policy(math.inf, "keep", drafts=3)
    handle = editing.student.model.latents.autoencoder.encoder.register_forward_hook(lambda *given: seen.append(1))
    result = editing(PROMPTS[:4], SEEDS[:4], policy, sources=SOURCES[:4])
    handle.remove()
    assert len(seen) == 1
    passes = costs.of_pictures(result.drafts, result.repaired, policy)
    torch.testing.assert_close(passes, torch.full((4,), costs.encode + 3 * costs.judged_draft, dtype=torch.float64))
    known = Calibration.of(Rehearsal(editing, PROMPTS, SEEDS, sources=SOURCES), costs, Policy())
    assert known.strategies[0].draft_passes == pytest.approx(costs.encode + costs.judged_draft)


def test_a_calibration_is_of_one_strength(drawing, editing, tmp_path):
    costs = measured_costs(editing.student, 2, editing.teacher, redness, PROMPTS[0], edits=True)
    drawn = Calibration.of(Rehearsal(drawing, PROMPTS, SEEDS), costs, Policy())
    edited = Calibration.of(Rehearsal(editing, PROMPTS, SEEDS, sources=SOURCES), costs, Policy())
    edited.save(tmp_path / "calibration.json")
    edited = Calibration.load(tmp_path / "calibration.json")
    assert edited.costs == costs
    edited.check(editing)
    drawn.check(drawing)
    other = replace(drawing, edit=EditStrength(0.5))
    for known, cascade, told in (
        (drawn, editing, "is of edit strength none, this is time 0.5; calibrate again"),
        (edited, drawing, "is of edit strength time 0.5, this is none; calibrate again"),
        (edited, other, "is of edit strength time 0.5, this is variance 0.5; calibrate again"),
    ):
        with pytest.raises(ValueError, match=told):
            known.check(cascade)


def test_what_cannot_be_edited_is_one_line(drawing, editing, tmp_path):
    with pytest.raises(ValueError, match="an edit strength, and no sources"):
        editing(PROMPTS, SEEDS, Policy())
    with pytest.raises(ValueError, match="no edit strength, which belongs to sources"):
        drawing(PROMPTS, SEEDS, Policy(), sources=SOURCES)
    with pytest.raises(ValueError, match="10 prompts with 4 sources; give one for each"):
        editing(PROMPTS, SEEDS, Policy(), sources=SOURCES[:4])
    with pytest.raises(ValueError, match=r"sources have shape \[4, 3, 8, 8\], needed is \[4, 3, 16, 16\]; resize"):
        editing(PROMPTS, SEEDS, Policy(), sources=SOURCES[..., :8, :8])
    with pytest.raises(ValueError, match=r"edit_time=1\.0: must be inside \(0, 1\); towards 0 the picture stays"):
        EditStrength(1.0, "time")
    with pytest.raises(ValueError, match=r"edit_variance=0\.999: the schedule ends with less noise; draw without"):
        replace(drawing, edit=EditStrength(0.999))
    student = load_a_student(write_export(tmp_path))
    with pytest.raises(ValueError, match=r"this student draws along fixed times, from noise alone; edit with python"):
        Cascade(student, drawing.teacher, redness, student_steps=4, student_scale=4.0, edit=HALF)


@pytest.mark.parametrize("edit", [HALF, EditStrength(0.5), EditStrength(0.3, "time")])
def test_nothing_is_refined_from_deeper_than_it_was_edited(drawing, edit, monkeypatch):
    """Of the variances of the menu those stay that the schedule has noised the picture by."""
    cascade = replace(drawing, edit=edit)
    schedule = cascade.teacher.model.parametrization.schedule
    start = torch.tensor(edit.time(schedule), dtype=torch.float64)
    variance = schedule(start)[1].square().item() + 1e-9
    rehearsal = Rehearsal(cascade, PROMPTS[:2], SEEDS[:2], sources=SOURCES[:2])
    depths = {policy.rollback.value for policy in menu(rehearsal) if policy.repair == "refine"}
    assert depths == {value for value in (0.5, 0.7, 0.9) if value <= variance} != {0.5, 0.7, 0.9}
    assert any(policy.repair == "regenerate" for policy in menu(rehearsal))
    monkeypatch.setattr(Cascade, "drafted", None)
    for rollback in (Rollback(0.9), Rollback(0.51, "time")):
        told = f"rollback_{rollback.kind}={rollback.value} is deeper, t = .*edit_{edit.kind}={edit.value}; give at most"
        with pytest.raises(ValueError, match=told):
            Calibration.of(rehearsal, measured_costs_of(cascade), Policy(rollback=rollback))
        pipe = Collaboration(cascade, measured_costs_of(cascade))
        with pytest.raises(ValueError, match=told):
            pipe.chosen(policy=Policy(math.inf, rollback=rollback))
        assert pipe.chosen(policy=Policy(rollback=rollback)).threshold == -math.inf  # nothing is refined
    cascade.check_rollback(Rollback(edit.value, edit.kind))


def measured_costs_of(cascade):
    return measured_costs(cascade.student, cascade.student_steps, cascade.teacher, redness, "")
