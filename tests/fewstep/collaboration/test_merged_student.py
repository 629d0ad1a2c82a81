"""A LoRA student that is only applied: merged once, it costs what its teacher costs, in any dtype."""

from dataclasses import replace

import pytest
import torch

from fewstep.backbones import load_latent_diffusion
from fewstep.collaboration.costs import measured_costs
from fewstep.collaboration.student import Student, describe_student, load_a_student
from fewstep.collaboration.teacher import Teacher
from fewstep.diffusion.solvers import time_like
from fewstep.distillation.students import StudentOptions
from fewstep.files.weights import weights_sha256
from tests.fewstep.collaboration.test_cascade import PROMPTS, SEEDS, own_noise, redness
from tests.tiny_diffusion import write_pipeline
from tests.tiny_export import write_export

HALF, FULL = torch.bfloat16, torch.float32


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Of a run whose adapter matters, of a rank that is not small beside the tiny network's widths."""
    folder = tmp_path_factory.mktemp("merged")
    teacher = write_pipeline(folder / "teacher", "sd_v")
    model = load_latent_diffusion(teacher)
    made = StudentOptions("lora", rank=16, alpha=16.0).decoder_of(model, averaged=False)
    for weight in made.weights.parameters():
        weight.data += 0.03 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    (folder / "lora").mkdir()
    made.save(folder / "lora")
    known = replace(load_a_student(teacher), guidance_scales=(2.0,))
    describe_student(folder / "lora", teacher, None, made.settings, known)
    return folder / "lora"


def answer(student, base=False):
    """float32 [3, 4, 8, 8] to fixed noise, of the student or of the network that it was put into."""
    x, model = own_noise(SEEDS[:3])[0], student.model
    denoiser = Teacher(model, 1, 1.0).denoiser if base else student.denoiser
    with torch.no_grad():
        return denoiser(x, time_like(x, 0.6), torch.full((3,), 2.0), model.condition(PROMPTS[:3]))


def apart(one, other):
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize("dtype", [FULL, HALF], ids=["float32", "bfloat16"])
def test_two_steps_are_two_passes(export, dtype):
    student = load_a_student(export, dtype=dtype)
    costs = measured_costs(student, 2, Teacher(student.model, 3, 2.0), redness, "")
    assert costs.draft == pytest.approx(2.0, abs=1e-9)
    assert costs.repair == 6.0


def test_added_to_every_layer_it_would_cost_more(export):
    """What is merged away."""
    model = load_latent_diffusion(export.parent / "teacher", dtype=HALF)
    added = StudentOptions("lora", rank=16, alpha=16.0).decoder_of(model, averaged=False).networks.reverse
    costs = measured_costs(Student(model, added, (2.0,)), 2, Teacher(model, 3, 2.0), redness, "")
    assert costs.draft > 2.2


def test_it_answers_as_in_float32_and_leaves_the_teacher_alone(export):
    full, half = load_a_student(export), load_a_student(export, dtype=HALF)
    teachers = [load_a_student(export.parent / "teacher", dtype=dtype) for dtype in (FULL, HALF)]
    assert apart(answer(full), answer(full, base=True)) > 0.2  # else there was nothing to compare
    assert apart(answer(half), answer(full)) < 0.03
    for student, teacher in zip((full, half), teachers, strict=True):
        torch.testing.assert_close(answer(student, base=True), answer(teacher), rtol=1e-5, atol=1e-5)


def test_merging_once_is_merging_at_every_call_to_the_last_bit(export):
    model = load_latent_diffusion(export.parent / "teacher")
    students = StudentOptions("lora", rank=16, alpha=16.0, merged=True).decoder_of(model, averaged=False)
    students.networks.adapters.load(export)
    before = weights_sha256(model.network)
    each = answer(Student(model, students.networks.reverse, (2.0,)))
    students.networks.adapters.keep_merged()
    assert torch.equal(answer(Student(model, students.networks.reverse, (2.0,))), each)
    assert weights_sha256(model.network) == before  # what calibrations name
    assert not any(weight.requires_grad for weight in model.network.parameters())
    with pytest.raises(ValueError, match="the adapter 'student' is merged for good"):
        students.networks.adapters.load(export)


def test_the_decoder_of_an_icd_pair_is_merged_too(tmp_path):
    export = write_export(tmp_path)
    full, half = (load_a_student(export, dtype=dtype) for dtype in (FULL, HALF))
    for student in (full, half):
        costs = measured_costs(student, 4, Teacher(student.model, 3, 4.0), redness, "")
        assert costs.draft == pytest.approx(4.0, abs=1e-9)
    assert apart(answer(half), answer(full)) < 0.03
