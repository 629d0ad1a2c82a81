"""Routes, noise and batches of the cascade, against the student and the teacher alone."""

import math
from dataclasses import replace

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

from fewstep.backbones import load_latent_diffusion
from fewstep.collaboration.cascade import Cascade
from fewstep.collaboration.costs import measured_costs
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rollback import Rollback
from fewstep.collaboration.student import Student, load_a_student
from fewstep.collaboration.teacher import SOLVERS, Teacher
from fewstep.distillation.students import adapter_student
from fewstep.rng import PerSampleRng
from tests.tiny_diffusion import CAPTIONS, write_pipeline
from tests.tiny_export import write_export

PROMPTS = [CAPTIONS[number % 4] for number in range(10)]
SEEDS = [f"scene {number}" for number in range(10)]
ALIKE = {"atol": 2e-5, "rtol": 1e-4}


def redness(images, asked):
    """An oracle that can be computed by hand."""
    assert len(asked) == len(images)
    return images[:, 0].mean((1, 2))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cascade")
    return write_pipeline(folder / "teacher", "sd_v"), folder


@pytest.fixture(scope="module")
def teacher(folders):
    return Teacher(load_latent_diffusion(folders[0]), 3, 2.0)


@pytest.fixture(scope="module")
def student(folders):
    return load_a_student(folders[0])


@pytest.fixture(scope="module")
def cascade(student, teacher):
    return Cascade(student, teacher, redness, student_steps=2, batch_size=4)


@pytest.fixture(scope="module")
def drafts(cascade):
    return cascade(PROMPTS, SEEDS, Policy())


def pictures(cascade, latents):
    return cascade.teacher.model.latents.decode(latents)


def own_noise(seeds):
    rng = PerSampleRng(0, seeds)
    return rng.normal(4, 8, 8), rng


def test_keeping_all_is_the_student_alone(cascade, drafts):
    noise, rng = own_noise(SEEDS)
    condition = cascade.student.model.prompts(PROMPTS)
    alone = pictures(cascade, cascade.student.draw(noise, condition, rng, 2))
    torch.testing.assert_close(drafts.images, alone, **ALIKE)
    assert torch.equal(drafts.scores, redness(drafts.images, SEEDS))
    assert not drafts.repaired.any()
    assert drafts.drafts.tolist() == [1] * 10
    assert drafts.routes("refine") == ["keep"] * 10


def test_regenerating_all_is_the_teacher_alone_bit_for_bit(cascade):
    result = cascade(PROMPTS[:4], SEEDS[:4], Policy(math.inf, "regenerate"))
    condition = cascade.teacher.model.prompts(PROMPTS[:4])
    alone = pictures(cascade, cascade.teacher.generate(own_noise(SEEDS[:4])[0], condition))
    assert torch.equal(result.images, alone)
    assert result.repaired.all()
    assert result.scores.isnan().all()  # nobody has looked at them


def test_the_teacher_is_the_pipeline_of_diffusers(folders, teacher):
    pipeline = StableDiffusionPipeline.from_pretrained(folders[0], local_files_only=True)
    config = dict(pipeline.scheduler.config)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        config, final_sigmas_type="zero", timestep_spacing="trailing", lower_order_final=False
    )
    pipeline.set_progress_bar_config(disable=True)
    noise = own_noise(SEEDS[:4])[0]
    theirs = pipeline(
        PROMPTS[:4], num_inference_steps=3, guidance_scale=2.0, latents=noise, output_type="pt", height=16, width=16
    ).images
    model = teacher.model
    ours = model.latents.decode(teacher.generate(noise, model.prompts(PROMPTS[:4])))
    torch.testing.assert_close(ours, 2 * theirs - 1, atol=1e-3, rtol=0)


def test_only_drafts_below_the_threshold_are_refined_from_where_they_were(cascade, drafts):
    threshold = drafts.scores.sort().values[4].item()
    policy = Policy(threshold, "refine", Rollback(0.4))
    result = cascade(PROMPTS, SEEDS, policy)
    worse = drafts.scores < threshold
    assert worse.sum() == 4  # the one at the threshold is kept
    assert torch.equal(result.repaired, worse)
    torch.testing.assert_close(result.images[~worse], drafts.images[~worse], **ALIKE)
    torch.testing.assert_close(result.draft_images, drafts.images, **ALIKE)
    places = worse.nonzero()[:, 0].tolist()
    prompts, seeds = [PROMPTS[place] for place in places], [SEEDS[place] for place in places]
    noise, rng = own_noise(seeds)
    condition = cascade.student.model.prompts(prompts)
    latents = cascade.student.draw(noise, condition, rng, 2)
    fresh = PerSampleRng(0, [f"{seed}, teacher" for seed in seeds]).normal(4, 8, 8)
    expected = pictures(cascade, cascade.teacher.refine(latents, fresh, condition, Rollback(0.4)))
    torch.testing.assert_close(result.images[worse], expected, **ALIKE)
    assert result.scores[worse].isnan().all()
    assert (result.seconds > 0).all()
    assert result.seconds[worse].min() > 0


@pytest.mark.parametrize("repair", ["refine", "regenerate"])
def test_what_a_sample_becomes_does_not_depend_on_its_batch(student, teacher, drafts, repair):
    policy = Policy(drafts.scores.sort().values[4:6].mean().item(), repair, drafts=2)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0)).tolist()
    found = []
    for size, places in ((4, range(10)), (1, range(10)), (7, order)):
        cascade = Cascade(student, teacher, redness, 2, batch_size=size)
        result = cascade([PROMPTS[p] for p in places], [SEEDS[p] for p in places], policy)
        back = torch.tensor(list(places)).argsort()
        found.append([result.images[back], result.drafts[back], result.repaired[back]])
    for other in found[1:]:
        torch.testing.assert_close(other[0], found[0][0], **ALIKE)
        assert torch.equal(other[1], found[0][1])
        assert torch.equal(other[2], found[0][2])


def test_drawing_again_keeps_the_best_and_stops_where_it_is_good_enough(cascade, drafts):
    threshold = drafts.scores.median().item() + 1e-4
    result = cascade(PROMPTS, SEEDS, Policy(threshold, "keep", drafts=3))
    good = drafts.scores >= threshold
    assert (result.drafts[good] == 1).all()
    assert (result.drafts[~good] >= 2).all()
    assert (result.drafts[~good & (result.scores < threshold)] == 3).all()
    assert (result.scores >= drafts.scores).all()
    assert (result.scores[~good] > drafts.scores[~good]).any()
    torch.testing.assert_close(result.scores, redness(result.images, SEEDS))
    assert not result.repaired.any()
    enough = cascade(PROMPTS, SEEDS, Policy(-math.inf, "keep", drafts=3, good_enough=threshold))
    assert torch.equal(enough.images, result.images)  # what is repaired is another question


def test_keeping_the_best_never_lowers_the_score(cascade, drafts):
    result = cascade(PROMPTS, SEEDS, Policy(math.inf, "regenerate", keep_best=True))
    assert (result.scores >= drafts.scores).all()
    torch.testing.assert_close(result.scores, redness(result.images, SEEDS), **ALIKE)
    always = cascade(PROMPTS, SEEDS, Policy(math.inf, "regenerate")).images
    taken = redness(always, SEEDS) >= drafts.scores
    torch.testing.assert_close(result.images[taken], always[taken], **ALIKE)
    torch.testing.assert_close(result.images[~taken], drafts.images[~taken], **ALIKE)


def test_regenerating_starts_from_the_noise_of_the_best_draft(cascade):
    result = cascade(PROMPTS[:4], SEEDS[:4], Policy(math.inf, "regenerate", drafts=3))
    assert result.drafts.tolist() == [3] * 4
    single = [cascade(PROMPTS[:4], seeds, Policy()).scores for seeds in names_of_drafts()]
    best = torch.stack(single).argmax(0).tolist()
    assert set(best) != {0}
    noise = own_noise([names_of_drafts()[number][place] for place, number in enumerate(best)])[0]
    condition = cascade.teacher.model.prompts(PROMPTS[:4])
    torch.testing.assert_close(result.images, pictures(cascade, cascade.teacher.generate(noise, condition)), **ALIKE)


def names_of_drafts():
    return [SEEDS[:4], *([f"{seed}, draft {number}" for seed in SEEDS[:4]] for number in (1, 2))]


def test_an_oracle_is_told_what_is_asked_in_place_of_the_prompt(student, teacher):
    seen = []
    cascade = Cascade(student, teacher, lambda images, asked: (seen.extend(asked), images.mean((1, 2, 3)))[1], 1)
    cascade(PROMPTS[:2], SEEDS[:2], Policy(), asked=[{"colour": "red"}, {"colour": "blue"}])
    assert seen == [{"colour": "red"}, {"colour": "blue"}]


def test_an_icd_decoder_is_a_student(tmp_path, teacher):
    """Of four steps and no others, from the same latents."""
    student = load_a_student(write_export(tmp_path))
    cascade = Cascade(student, teacher, redness, student_steps=4, student_scale=4.0)
    result = cascade(PROMPTS[:2], SEEDS[:2], Policy(math.inf))
    assert result.images.shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="this student draws in 4 steps, not in 2"):
        Cascade(student, teacher, redness, student_steps=2, student_scale=4.0)


def test_costs_are_counted_in_passes(student, teacher):
    costs = measured_costs(student, 2, teacher, redness, PROMPTS[0])
    assert costs.draft == pytest.approx(2)  # the same network, unguided
    assert costs.repair == teacher.passes == 6  # three steps, guided in two rows
    assert costs.look == pytest.approx(costs.decode)  # redness multiplies nothing
    assert 0.01 < costs.decode < 10
    assert Teacher(teacher.model, 3, 1.0).passes == 3
    assert costs.judged_draft == costs.draft + costs.look


def test_a_draft_by_a_merged_adapter_costs_what_it_adds_to_a_batch(folders, teacher):
    """Merging happens once for a batch; one picture alone would be charged for it."""
    model = load_latent_diffusion(folders[0])
    merged = adapter_student(model, rank=16, merged=True).networks.reverse
    student = Student(model, merged, (2.0,))
    assert measured_costs(student, 1, teacher, redness, PROMPTS[0]).draft == pytest.approx(1, abs=0.02)


def test_attention_of_an_oracle_is_counted(student, teacher):
    """torch has a fast way for it, which its counter does not see."""
    layer = torch.nn.MultiheadAttention(64, 4, batch_first=True).eval()

    def attentive(images, asked):
        tokens = images.flatten(1)[:, :640].unflatten(1, (10, 64))
        return layer(tokens, tokens, tokens, need_weights=False)[0].mean((1, 2))

    found, plain = (measured_costs(student, 1, teacher, oracle, "") for oracle in (attentive, redness))
    counted = (found.look - plain.look) * found.flops
    assert counted == pytest.approx(2 * (4 * 10 * 64 * 64 + 2 * 10 * 10 * 64), rel=0.01)


def test_a_teacher_that_makes_no_numbers_is_no_success(student, teacher, monkeypatch):
    monkeypatch.setitem(SOLVERS, "ddim", lambda denoiser, p, x, *rest: x * math.nan)
    cascade = Cascade(student, replace(teacher, solver="ddim"), redness, 1)
    with pytest.raises(ValueError, match="the teacher made no numbers of 'a red square'"):
        cascade(PROMPTS[:2], SEEDS[:2], Policy(math.inf))


def test_a_student_that_makes_no_numbers_is_told_by_its_name(student, teacher):
    broken = replace(student, denoiser=lambda x, *rest: x * math.nan)
    with pytest.raises(ValueError, match="the student made no numbers of 'a red square'; use float32"):
        Cascade(broken, teacher, redness, 1)(PROMPTS[:2], SEEDS[:2], Policy())


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_every_solver_ends_in_the_same_data(folders, solver):
    """With many steps; the network is a smooth one."""
    model = load_latent_diffusion(folders[0])
    noise, condition = own_noise(SEEDS[:2])[0], model.prompts(PROMPTS[:2])
    fine = Teacher(model, 50, 2.0, solver).generate(noise, condition)
    truth = Teacher(model, 100, 2.0).generate(noise, condition)
    assert (fine - truth).square().mean() < 2e-3 * truth.square().mean()


def test_what_does_not_fit_is_said(student, teacher, tmp_path):
    other = load_latent_diffusion(write_pipeline(tmp_path / "sd3", "sd3_without_t5"))
    with pytest.raises(ValueError, match=r"different latents, \[4, 8, 8\] and \[16, 8, 8\]"):
        Cascade(student, Teacher(other, 3), redness)
    for wrong, told in (
        (lambda images, _: images[:, 0, 0, 0] * math.nan, "the oracle returned NaN for 2 of 2 pictures"),
        (lambda images, _: images, r"the oracle returned shape \[2, 3, 16, 16\] for 2 pictures"),
    ):
        with pytest.raises(ValueError, match=told):
            Cascade(student, teacher, wrong, 1)(PROMPTS[:2], SEEDS[:2], Policy())
    with pytest.raises(ValueError, match="10 prompts with 9 seeds"):
        Cascade(student, teacher, redness)(PROMPTS, SEEDS[:9], Policy())
    for options, told in (
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"student_scale": math.nan}, "guidance_scale nan: this student is not guided"),
    ):
        with pytest.raises(ValueError, match=told):
            Cascade(student, teacher, redness, **options)
    for options, told in (
        ({"num_steps": 0}, "teacher steps=0: must be at least 1"),
        ({"solver": "euler"}, "solver='euler': choose one of ddim, dpm_solver, unipc"),
        ({"guidance_scale": -1.0}, "teacher guidance_scale=-1.0: must be at least 0"),
    ):
        with pytest.raises(ValueError, match=told):
            Teacher(teacher.model, **options)
    for options, told in (
        ({"repair": "retry"}, "repair='retry': choose one of keep, refine, regenerate"),
        ({"drafts": 0}, "drafts=0: must be at least 1"),
        ({"drafts": 1 << 53}, "drafts=9007199254740992: .*at most 1000"),
        ({"threshold": math.nan}, "threshold=nan: give a number"),
        ({"good_enough": math.nan}, "good_enough=nan: give a number"),
    ):
        with pytest.raises(ValueError, match=told):
            Policy(**options)


def test_a_student_alone_says_which_steps_and_scales_it_has(student):
    assert isinstance(student, Student)
    with pytest.raises(ValueError, match="student steps=0: must be at least 1"):
        student.check(0, 1.0)
