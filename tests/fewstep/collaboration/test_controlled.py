"""A ControlNet or T2I-Adapter beside both networks of a cascade."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fewstep.backbones import load_control, load_latent_diffusion
from fewstep.collaboration.calibration import identity
from fewstep.collaboration.cascade import Cascade
from fewstep.collaboration.costs import measured_costs
from fewstep.collaboration.pipeline import Collaboration
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rollback import EditStrength
from fewstep.collaboration.student import describe_student, load_a_student
from fewstep.collaboration.teacher import Teacher
from fewstep.distillation.students import StudentOptions
from tests.fewstep.collaboration.test_cascade import ALIKE, PROMPTS, SEEDS, own_noise, redness
from tests.tiny_control import KINDS, pictures, write_control
from tests.tiny_diffusion import write_pipeline
from tests.tiny_export import write_export

SHOWN = pictures(10)
STUDENTS = {"pipeline": 1.0, "lora": 2.0, "full": 2.0, "icd": 4.0}  # and the scale that each draws at


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("controlled")
    for kind in KINDS:
        write_control(folder / kind, kind)
    write_control(folder / "silent", "controlnet", perturbed=False)
    teacher = write_pipeline(folder / "teacher", "sd_v")
    for kind in ("lora", "full"):
        model = load_latent_diffusion(teacher)
        made = StudentOptions(kind, rank=2).decoder_of(model, averaged=False)
        for weight in made.weights.parameters():
            weight.data += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
        (folder / kind).mkdir()
        made.save(folder / kind)
        describe_student(
            folder / kind, teacher, None, made.settings, replace(load_a_student(teacher), guidance_scales=(2.0,))
        )
    write_export(folder / "icd")
    return folder


def cascade_of(folders, kind=None, **options):
    control = None if kind is None else load_control(folders / kind)
    teacher = Teacher(load_latent_diffusion(folders / "teacher", control=control), 3, 2.0)
    student = load_a_student(folders / "teacher", control=control)
    return Cascade(student, teacher, redness, student_steps=2, batch_size=4, **options)


@pytest.mark.parametrize("repair", ["refine", "regenerate"])
def test_a_fresh_controlnet_changes_nothing_and_others_change_both(folders, repair):
    policy = Policy(math.inf, repair)
    plain = cascade_of(folders)(PROMPTS[:4], SEEDS[:4], policy)
    silent = cascade_of(folders, "silent")(PROMPTS[:4], SEEDS[:4], policy, controls=SHOWN[:4])
    assert torch.equal(silent.images, plain.images)
    assert torch.equal(silent.draft_images, plain.draft_images)
    for kind in KINDS:
        found = cascade_of(folders, kind)(PROMPTS[:4], SEEDS[:4], policy, controls=SHOWN[:4])
        assert (found.draft_images - plain.draft_images).abs().mean() > 1e-3
        assert (found.images - plain.images).abs().mean() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edit", [None, EditStrength(0.5, "time")])
def test_what_a_sample_becomes_does_not_depend_on_its_batch(folders, kind, edit):
    cascade, sources = cascade_of(folders, kind, edit=edit), None if edit is None else SHOWN.flip(0)
    drafts = cascade(PROMPTS, SEEDS, Policy(), sources=sources, controls=SHOWN)
    policy = Policy(drafts.scores.median().item() + 1e-4, "regenerate", drafts=2)
    found = []
    for size, places in ((4, list(range(10))), (3, [7, 2, 9, 0, 1, 3, 8, 4, 6, 5])):
        told = [PROMPTS[p] for p in places], [SEEDS[p] for p in places]
        own = None if sources is None else sources[places]
        result = replace(cascade, batch_size=size)(*told, policy, sources=own, controls=SHOWN[places])
        found.append(result.images[torch.tensor(places).argsort()])
    torch.testing.assert_close(found[1], found[0], **ALIKE)


@pytest.mark.parametrize("student", STUDENTS)
def test_every_kind_of_student_is_controlled(folders, student):
    folder = {"pipeline": folders / "teacher", "icd": folders / "icd" / "export"}.get(student, folders / student)
    scale, steps = STUDENTS[student], 4 if student == "icd" else 2
    drawn = []
    for kind in (None, "silent", *KINDS):
        control = None if kind is None else load_control(folders / kind)
        loaded = load_a_student(folder, control=control)
        noise, rng = own_noise(SEEDS[:2])
        condition = loaded.model.condition(PROMPTS[:2], None if control is None else SHOWN[:2])
        drawn.append(loaded.draw(noise, condition, rng, steps, scale))
    torch.testing.assert_close(drawn[1], drawn[0], atol=1e-6, rtol=1e-6)
    for other in drawn[2:]:
        assert (other - drawn[0]).norm() > 1e-2 * drawn[0].norm()


@pytest.mark.parametrize("kind", KINDS)
def test_costs_count_the_control_network(folders, kind):
    cascade, plain = cascade_of(folders, kind), cascade_of(folders)
    alone = measured_costs(plain.student, 2, plain.teacher, redness, "")
    costs = measured_costs(cascade.student, 2, cascade.teacher, redness, "")
    assert (costs.flops, costs.look, costs.decode) == (alone.flops, alone.look, alone.decode)
    model = cascade.teacher.model
    prompt, x = model.prompts([""])["prompt"], torch.zeros(1, 4, 8, 8)
    with FlopCounterMode(display=False) as counter:
        model.control.additions(x, torch.tensor([500]), prompt, SHOWN[:1], None)
    share = counter.get_total_flops() / alone.flops
    assert share > 0.01
    assert costs.draft == pytest.approx(2 * (1 + share))
    assert costs.repair == pytest.approx(6 * (1 + share))


def test_the_class_takes_a_folder(folders):
    settings = {"teacher": folders / "teacher", "oracle": redness, "student_steps": 2, "teacher_steps": 3}
    pipe = Collaboration.from_pretrained(folders / "teacher", control=folders / "controlnet", **settings)
    policy = Policy(math.inf, "regenerate")
    found = pipe(PROMPTS[:2], SEEDS[:2], policy=policy, controls=SHOWN[:2])
    other = pipe(PROMPTS[:2], SEEDS[:2], policy=policy, controls=SHOWN[2:4])
    assert (found.images - other.images).abs().mean() > 1e-3
    calibrated = pipe.calibrated(PROMPTS, SEEDS, policy, controls=SHOWN)
    calibrated.calibration.check(pipe.cascade)
    plain = Collaboration.from_pretrained(folders / "teacher", **settings)
    with pytest.raises(ValueError, match=r"is of control of the student [0-9a-f]{16}, this is none; calibrate again"):
        calibrated.calibration.check(plain.cascade)
    assert set(identity(plain.cascade)) < set(calibrated.calibration.about)
    with pytest.raises(ValueError, match="there is a control network: give its pictures, `controls`"):
        pipe(PROMPTS[:2], SEEDS[:2], policy=policy)
    with pytest.raises(ValueError, match="there is no control network: load one, or leave its pictures"):
        plain(PROMPTS[:2], SEEDS[:2], policy=policy, controls=SHOWN[:2])
    with pytest.raises(ValueError, match="2 prompts with 10 controls; give one for each"):
        pipe(PROMPTS[:2], SEEDS[:2], policy=policy, controls=SHOWN)
    with pytest.raises(ValueError, match=r"controls have shape \[2, 3, 8, 8\], needed is \[2, 3, 16, 16\]"):
        pipe(PROMPTS[:2], SEEDS[:2], policy=policy, controls=SHOWN[:2, :, :8, :8])
