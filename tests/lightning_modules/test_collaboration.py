"""A tiny student: what is trained and stored, whom the loss reaches, and its export in other hands."""

import copy

import pytest
import torch

from fewstep.backbones import load_latent_diffusion, save_guided_network
from fewstep.collaboration.student import load_a_student
from fewstep.collaboration.student_distillation import ConsistencyOptions, StudentDistillation, snr_weight
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import DiscreteSchedule
from fewstep.distillation.network_calls import SeparateNetworks
from fewstep.distillation.students import StudentOptions, unscaled
from fewstep.metrics.perceptual import LPIPS
from fewstep.optimizers import AdamW
from fewstep.rng import PerSampleRng
from lightning_modules.collaboration import CollaborationModule
from tests.lightning_modules.test_icd import Data, trainer
from tests.tiny_diffusion import CAPTIONS, batch, unet, write_pipeline

OPTIMIZER = AdamW(3e-3, warmup_steps=2, schedule="constant")
KINDS = {
    "lora": StudentOptions(rank=4, alpha=4),
    "merged": StudentOptions(rank=4, alpha=4, merged=True),
    "full": StudentOptions("full"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A pipeline that is guided classifier-free."""
    return write_pipeline(tmp_path_factory.mktemp("teacher") / "pipeline", "sd_v")


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """(pipeline, its guidance-distilled network)."""
    folder = tmp_path_factory.mktemp("guided")
    network = unet(time_cond_proj_dim=16)
    torch.nn.init.normal_(network.time_embedding.cond_proj.weight, std=0.3)
    save_guided_network(folder / "guided", network, (1.0, 4.0))
    return write_pipeline(folder / "pipeline", "sd"), str(folder / "guided")


def module(pipeline, network=None, kind="lora", **options):
    settings = {"guidance_scales": (2.0,), "students": KINDS[kind], "optimizer": OPTIMIZER, "sampling_steps": 2}
    return CollaborationModule(pipeline, network, **{**settings, **options})


def drawn(net, rows=range(8)):
    torch.manual_seed(0)
    return net.distillation.draw(batch(rows))


def randomise(net, std=0.1):
    for weight in net.weights.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight.data, std=std)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_one_teacher_step_and_the_average_of_the_student(plain, kind):
    """Written down for a network that knows nothing of roles: v at t, DDIM to the next time, data there."""
    net = module(plain, kind=kind)
    randomise(net)
    net.distillation.move_target()  # target: 0.95 of the start, 0.05 of these weights
    draw, model = drawn(net), net.distillation.model
    networks = net.distillation.students.networks
    reverse, target = (
        networks.denoisers[role] if kind != "full" else getattr(networks, role) for role in ("reverse", "target")
    )
    teacher = load_latent_diffusion(plain).denoiser()
    p, t = model.parametrization, draw.reverse_time
    near = t - 1 / 50
    one, w = torch.ones(8), torch.full((8,), 2.0)
    x = p.add_noise(draw.data, draw.noise, t)
    stepped = p.jump(x, teacher(x, t, w, draw.condition), t, near)
    goal = p.data(stepped, target(stepped, near, one, draw.condition), near)
    goal = torch.where((near < 1e-6)[:, None, None, None], stepped, goal)
    expected = (p.data(x, reverse(x, t, one, draw.condition), t) - goal).square().mean((1, 2, 3))
    torch.testing.assert_close(net.distillation.loss(draw), expected, rtol=1e-3, atol=1e-5)
    assert not torch.equal(target(x, t, one, draw.condition), reverse(x, t, one, draw.condition))


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_student_is_trained_and_its_target_follows(plain, kind, tmp_path):
    net = module(plain, kind=kind)
    before = copy.deepcopy(net.state_dict())
    runner = trainer(tmp_path, max_steps=3)
    runner.fit(net, Data())
    after = net.state_dict()
    targets = [name for name in after if "target" in name.replace("_adapter", "")]
    students = [name for name in after if name not in targets]
    assert targets
    assert len(targets) == len(students)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved & set(targets)
    assert moved & set(students)
    step = sum((after[name] - before[name]).square().sum() for name in students).sqrt()
    follows = sum((after[name] - before[name]).square().sum() for name in targets).sqrt()
    assert 0 < follows < 0.2 * step  # a twentieth of it at each of three steps
    trained = {id(p) for group in net.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert trained == {id(p) for name, p in net.named_parameters() if name in students}


def test_without_an_average_the_target_is_the_student(plain):
    net = module(plain, distillation=ConsistencyOptions(target_decay=0))
    randomise(net)
    draw, averaged = drawn(net), module(plain)
    averaged.load_state_dict(net.state_dict(), strict=False)
    averaged.distillation.students.move_target(0.0)  # at once
    torch.testing.assert_close(net.distillation.loss(draw), averaged.distillation.loss(draw))
    assert not any("target" in name for name in net.state_dict())


def test_the_joint_call_of_a_guided_teacher_is_its_calls_one_by_one(plain):
    """Two rows of the teacher, one of the student and one of its target, in the same or in other batches."""
    net = module(plain)
    randomise(net)
    net.distillation.move_target()
    draw, shared = drawn(net), net.distillation.students.networks
    separate = SeparateNetworks(
        load_latent_diffusion(plain).denoiser(), reverse=shared.denoisers["reverse"], target=shared.denoisers["target"]
    )
    found = [net.distillation.losses.objective(networks, draw)[0] for networks in (shared, separate)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_a_network_with_an_embedding_teaches_several_scales(guided):
    net = module(*guided, guidance_scales=(4.0,))
    assert net.distillation.guidance_scales == (1.0, 4.0)
    assert net.guidance_scale == 4
    scales = drawn(net, range(40)).guidance_scale
    assert set(scales.tolist()) == {1.0, 4.0}
    one, four = (net.generate_images(CAPTIONS, PerSampleRng(0, CAPTIONS), guidance_scale=w) for w in (1.0, 4.0))
    assert not torch.equal(one, four)


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("embedded", [False, True], ids=["plain", "guided"])
def test_an_export_draws_as_the_module_did(plain, guided, tmp_path, kind, embedded):
    net = module(*guided, kind=kind, guidance_scales=()) if embedded else module(plain, kind=kind)
    randomise(net)
    net.hparams.network = guided[1] if embedded else None
    net.export(str(tmp_path))
    student, model = load_a_student(tmp_path), net.distillation.model
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student", "student.json"]
    rng = PerSampleRng(0, CAPTIONS)
    noise = rng.normal(4, 8, 8)
    w = 4.0 if embedded else 2.0
    again = model.latents.decode(student.draw(noise, model.prompts(CAPTIONS), rng, 2, w))
    torch.testing.assert_close(again, net.generate_images(CAPTIONS, PerSampleRng(0, CAPTIONS)), atol=1e-5, rtol=1e-5)


def test_plain_diffusers_draws_from_the_adapter(plain, tmp_path):
    """As an LCM, which adds noise of its own between two steps; in one step there is none."""
    from diffusers import LCMScheduler, StableDiffusionPipeline

    net = module(plain)
    randomise(net)
    net.export(str(tmp_path))
    pipeline = StableDiffusionPipeline.from_pretrained(plain, local_files_only=True)
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config, original_inference_steps=1)
    pipeline.load_lora_weights(tmp_path / "student")
    pipeline.set_progress_bar_config(disable=True)
    rng = PerSampleRng(0, CAPTIONS[:2])
    noise = rng.normal(4, 8, 8)
    theirs = pipeline(
        CAPTIONS[:2], num_inference_steps=1, guidance_scale=1.0, latents=noise, output_type="pt", height=16, width=16
    ).images
    ours = net.generate_images(CAPTIONS[:2], PerSampleRng(0, CAPTIONS[:2]), num_steps=1)
    torch.testing.assert_close(2 * theirs - 1, ours, atol=2e-3, rtol=0)


def test_weights_of_the_times():
    p, t = Parametrization(DiscreteSchedule(), "eps"), torch.tensor([0.02, 0.5, 1.0])
    alpha, sigma = p.schedule(t)
    snr = alpha.square() / sigma.square()
    torch.testing.assert_close(snr_weight(p, "snr", t), snr)
    torch.testing.assert_close(snr_weight(p, "snr_plus_one", t), snr + 1)
    torch.testing.assert_close(snr_weight(p, "truncated_snr", t), torch.tensor([snr[0], 1.0, 1.0]))


def test_a_weighted_loss_is_the_weight_times_the_loss(plain):
    weighted = module(plain, distillation=ConsistencyOptions(weighting="snr"))
    uniform = module(plain)
    draw = drawn(uniform)
    expected = uniform.distillation.loss(draw) * snr_weight(
        uniform.distillation.model.parametrization, "snr", draw.reverse_time
    )
    torch.testing.assert_close(weighted.distillation.loss(draw), expected)


def test_a_perceptual_loss_compares_pictures(plain):
    """LPIPS of what both sides decode to; its gradient against differences of the loss."""
    distance = ConsistencyOptions(distance="lpips").of(load_latent_diffusion(plain)).distance
    latents = distance.latents
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    pictures = [latents.autoencoder.decode(side / latents.scale).sample for side in (first, second)]
    torch.testing.assert_close(distance(first, second), LPIPS("vgg")(*pictures))
    assert distance(first, first).tolist() == [0.0, 0.0]
    moving = first.clone().requires_grad_()
    distance(moving, second).sum().backward()
    steepest = moving.grad / moving.grad.norm()
    ends = [distance(first + step * steepest, second).sum().item() for step in (0.02, -0.02)]
    assert moving.grad.norm().item() == pytest.approx((ends[0] - ends[1]) / 0.04, rel=0.05)
    net = module(plain, distillation=ConsistencyOptions(distance="lpips"))
    loss = net.distillation.loss(drawn(net)).mean()
    loss.backward()
    grads = [parameter.grad for parameter in net.parameters() if parameter.requires_grad]
    assert any(grad is not None and grad.abs().max() > 0 for grad in grads)
    assert not any("lpips" in name or "autoencoder" in name for name in net.state_dict())


@pytest.mark.learns
def test_learns(tmp_path, below):
    seed = torch.initial_seed()  # the parts of a pipeline are made with seeds of their own
    pipeline = write_pipeline(tmp_path / "pipeline", "sd_v", unet(seed))
    torch.manual_seed(seed)
    net = module(pipeline, kind="full", distillation=ConsistencyOptions(num_steps=10))
    runner = trainer(tmp_path, max_steps=60, check_val_every_n_epoch=60)
    first = runner.validate(net, Data(), verbose=False)[0]
    runner.fit(net, Data())
    last = runner.validate(net, Data(), verbose=False)[0]
    below("loss", last["val/loss"], 0.8 * first["val/loss"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_scales": (1.0, 2.0)}, r"guidance_scales=\[1.0, 2.0\]: .* give the one positive scale"),
        ({"guidance_scales": ()}, "give the one positive scale"),
        ({"guidance_scales": (-1.0,)}, "give the one positive scale"),
        ({"sampling_steps": 0}, "student steps=0: must be at least 1"),
        ({"dtype": "int8"}, "dtype='int8': choose one of"),
    ],
)
def test_mistakes_are_one_line(plain, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        module(plain, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 1}, "distillation.num_steps=1: must be at least 2"),
        ({"distance": "dreamsim"}, "distillation.distance='dreamsim': choose one of l2, l1, pseudo_huber, lpips"),
        ({"weighting": "snr+1"}, "distillation.weighting='snr.1': choose one of"),
        ({"huber_c": 0.0}, "distillation.huber_c=0.0: must be above 0"),
        ({"target_decay": 1.0}, "distillation.target_decay=1.0: must be at least 0 and below 1"),
    ],
)
def test_options_that_cannot_train(options, message):
    with pytest.raises(ValueError, match=message):
        ConsistencyOptions(**options)


LORA = '"students": {"kind": "lora", "rank": 2, "alpha": 2}'
WHOLE = f'"pipeline": "p", "network": null, "guidance_scales": [1.0], {LORA}'


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        '{"schema": 1}',
        f'{{"schema": 2, {WHOLE}}}',
        f'{{"schema": 1, {WHOLE.replace("[1.0]", "[]")}}}',
        f'{{"schema": 1, {WHOLE.replace(": 2,", ": 4.5,")}}}',
        f'{{"schema": 1, {WHOLE.replace(": 2,", ": 1000000000000,")}}}',
    ],
)
def test_a_description_that_is_none(tmp_path, content):
    (tmp_path / "student.json").write_text(content)
    with pytest.raises(ValueError, match=r"student.json is not what a collaboration run exports") as caught:
        load_a_student(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_pipeline_is_a_student_too(plain, guided):
    """One without an embedding as SDXL-Turbo: unguided, one pass a step. One with, as LCM."""
    turbo = load_a_student(plain)
    assert turbo.guidance_scales == ()
    with pytest.raises(ValueError, match="guidance_scale 8: this student is not guided; give 1"):
        turbo.check(2, 8.0)
    rng = PerSampleRng(0, CAPTIONS)
    noise, condition = rng.normal(4, 8, 8), turbo.model.prompts(CAPTIONS)
    alone = unscaled(turbo.model.network, turbo.model.parametrization.schedule)
    t = torch.ones(4)
    expected = turbo.model.parametrization.data(noise, alone(noise, t, t, condition), t)
    torch.testing.assert_close(turbo.draw(noise, condition, rng, 1), expected)
    lcm = load_a_student(guided[0], network=guided[1])
    assert lcm.guidance_scales == (1.0, 4.0)
    with pytest.raises(ValueError, match="guidance_scale 3 was not trained"):
        lcm.check(2, 3.0)


def test_a_full_student_learns_in_float32(plain):
    net = module(plain, kind="full", dtype="bfloat16")
    assert {weight.dtype for weight in net.weights.parameters()} == {torch.float32}
    assert next(net.distillation.model.network.parameters()).dtype == torch.bfloat16
    assert net.distillation.loss(drawn(net)).isfinite().all()


def test_two_exports_have_two_hashes(plain, tmp_path):
    for name in ("one", "two"):
        net = module(plain, kind="full")
        randomise(net, 0.1 if name == "one" else 0.2)
        net.export(str(tmp_path / name))
    assert load_a_student(tmp_path / "one").sha256 != load_a_student(tmp_path / "two").sha256


def test_distillation_hashes_its_teacher(plain):
    model = load_latent_diffusion(plain)
    found = StudentDistillation.of(model, (2.0,), ConsistencyOptions(), KINDS["lora"])
    assert "network" in found.encoders.hashes
