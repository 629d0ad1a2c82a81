"""Two phases of iCD's training, its cycle over whole pictures, and the scale of codes that a run measures."""

import lightning as L
import pytest
import torch

import lightning_modules.icd
from callbacks.care.ema import EMA
from fewstep.distillation.consistency import ConsistencyDistillation, Weights
from fewstep.distillation.options import DistillationOptions, SecondPhase
from fewstep.icd.inversion import decode, encode
from fewstep.icd.pair import Editing
from fewstep.metrics.perceptual import LPIPS
from fewstep.rng import PerSampleRng
from tests.lightning_modules.test_icd import Data, module, teacher, trainer  # noqa: F401  # teacher: a fixture
from tests.tiny_diffusion import CAPTIONS, batch

CYCLE = Weights(0, 0, 0, 0, full_cycle=1)


class SeedOfStep(L.Callback):
    def on_train_batch_start(self, trainer, *_):
        torch.manual_seed(trainer.global_step)


def weights_of(net):
    return [parameter.detach().clone() for parameter in net.parameters()]


def seeded(make, *arguments, **options):
    torch.manual_seed(0)
    return make(*arguments, **options)


def fitted(net, folder, steps, resumed=None, **options):
    runner = trainer(folder, max_steps=steps, limit_val_batches=0, callbacks=[SeedOfStep()], **options)
    runner.fit(net, Data(), ckpt_path=resumed)
    return runner


@pytest.fixture
def in_force(monkeypatch):
    """The weights of every loss that is trained, in order."""
    seen, objective = [], ConsistencyDistillation.objective

    def recorded(self, networks, draw):
        if torch.is_grad_enabled():
            seen.append(self.weights)
        return objective(self, networks, draw)

    monkeypatch.setattr(ConsistencyDistillation, "objective", recorded)
    return seen


@pytest.mark.parametrize("stopped", [1, 2, 3])
def test_the_second_phase_begins_at_its_step_also_in_a_run_that_is_continued(
    teacher,  # noqa: F811
    tmp_path,
    in_force,
    stopped,
):
    phases = DistillationOptions(start=0.0, second_phase=SecondPhase(2))
    whole, first, second = (seeded(module, teacher, distillation=phases) for _ in range(3))
    fitted(whole, tmp_path, 4)
    assert in_force == [Weights(), Weights(), CYCLE, CYCLE]
    del in_force[:]
    fitted(first, tmp_path, stopped).save_checkpoint(tmp_path / "stopped.ckpt")
    fitted(second, tmp_path, 4, resumed=tmp_path / "stopped.ckpt")
    assert in_force == [Weights(), Weights(), CYCLE, CYCLE]
    for ours, theirs in zip(weights_of(whole), weights_of(second), strict=True):
        assert torch.equal(ours, theirs)
    assert all(not torch.equal(a, b) for a, b in zip(weights_of(first), weights_of(second), strict=True))


def test_steps_for_each_term_are_those_of_the_phase(teacher, tmp_path):  # noqa: F811
    phases = DistillationOptions(second_phase=SecondPhase(1, Weights(0, 0, 0, 0, 1, 1)))
    net, asked = module(teacher, objective="separate", distillation=phases), []
    term = net.distillation.losses.term

    def recorded(name, networks, draw):
        asked.append(name)
        return term(name, networks, draw)

    object.__setattr__(net.distillation.losses, "term", recorded)
    fitted(net, tmp_path, 2)
    both = ["reverse_cd", "forward_cd", "forward_preservation", "reverse_preservation"]
    assert asked == [*both, "full_cycle", "code_moment"]


def test_an_evaluation_judges_by_the_last_phase_from_the_beginning_on(teacher, tmp_path):  # noqa: F811
    phases = DistillationOptions(second_phase=SecondPhase(1000))
    told = trainer(tmp_path).validate(module(teacher, distillation=phases), Data(), verbose=False)[0]
    assert told["val/loss"] == told["val/full_cycle_loss"]
    assert "val/forward_cd_loss" not in told


@pytest.mark.parametrize("distance", ["lpips", "l2", "l1"])
def test_the_cycle_is_compared_as_pictures_or_as_latents(teacher, distance):  # noqa: F811
    net = module(teacher, distillation=DistillationOptions(loss_weights=CYCLE, full_cycle_distance=distance))
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    draw = net.distillation.draw(batch(), PerSampleRng(0, range(4)))
    losses, _ = net.distillation.objective(draw)
    pair, models = net.pair, (net.distillation.model.parametrization, net.pair.boundaries)
    code = encode(pair.forward, *models, draw.data, draw.noise, draw.condition)[-1]
    back = decode(pair.reverse, *models, code, draw.condition)
    decoded = [net.distillation.model.latents.decode_with_grad(latents) for latents in (back, draw.data)]
    expected = {
        "lpips": lambda: LPIPS("vgg")(*decoded),
        "l2": lambda: torch.nn.functional.mse_loss(back, draw.data, reduction="none").flatten(1).mean(1),
        "l1": lambda: torch.nn.functional.l1_loss(back, draw.data, reduction="none").flatten(1).mean(1),
    }[distance]()
    assert expected.min() > 1e-3
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-5)
    losses.mean().backward()
    for role in ("forward", "reverse"):
        assert any(p.grad.abs().max() > 0 for n, p in net.named_parameters() if f"{role}_adapter" in n)


def scale_by_hand(net):
    """Of the three rows that count; the noise of the start belongs to the key."""
    rows = batch(range(3))
    codes = net.pair.encode(rows["image"], rows["caption"], PerSampleRng(0, rows["key"]))[-1]
    return torch.linalg.vector_norm(codes).item() / codes.numel() ** 0.5


def test_validation_measures_how_large_the_codes_of_the_averaged_weights_are(teacher, tmp_path):  # noqa: F811
    net, ema = module(teacher), EMA(0.9)
    assert net.pair.code_scale is None
    runner = trainer(tmp_path, max_steps=6, check_val_every_n_epoch=6, callbacks=[ema])
    runner.fit(net, Data())
    raw, measured = scale_by_hand(net), net.pair.code_scale
    with torch.no_grad():
        for name, weight in net.named_parameters():
            weight.copy_(ema.average[name])
    assert measured == pytest.approx(scale_by_hand(net), rel=1e-4)
    assert measured != pytest.approx(raw, rel=1e-4)
    assert runner.callback_metrics["val/code_mean_square"].item() == pytest.approx(measured**2, rel=1e-4)

    runner.save_checkpoint(tmp_path / "end.ckpt")
    stored, again = torch.load(tmp_path / "end.ckpt", weights_only=True), module(teacher)
    again.on_load_checkpoint(stored)
    assert again.pair.code_scale == stored["code_scale"] == measured
    again.on_load_checkpoint({key: value for key, value in stored.items() if key != "code_scale"})
    assert again.pair.code_scale is None  # as of earlier versions
    with pytest.raises(ValueError, match=r"the checkpoint's code_scale is inf, expected a number from 0\.01 to 100"):
        again.on_load_checkpoint(stored | {"code_scale": float("inf")})


def test_pictures_of_a_run_are_drawn_from_noise_of_that_scale(teacher, tmp_path, monkeypatch):  # noqa: F811
    net = module(teacher, editing=Editing(guidance_scale=4.0))
    trainer(tmp_path).validate(net, Data(), verbose=False)
    assert 0.1 < net.pair.code_scale != pytest.approx(1, abs=0.02)
    monkeypatch.setattr(lightning_modules.icd, "log_mean", lambda *_, **__: None)
    monkeypatch.setattr(lightning_modules.icd, "sample_rng", lambda keys, device: PerSampleRng(0, keys))
    whole = batch()
    noise = PerSampleRng(0, whole["key"]).normal(4, 8, 8)
    prompts, keys = whole["caption"], whole["key"]
    for noise_scale, factor in ((None, net.pair.code_scale), (1.0, 1.0)):
        net.editing = Editing(guidance_scale=4.0, noise_scale=noise_scale)
        expected = net.pair.decode(factor * noise, prompts, 4.0, 0.8)
        torch.testing.assert_close(net.test_step(whole, 0)["image"], expected)
        torch.testing.assert_close(net.predict_step({"caption": CAPTIONS, "key": keys}, 0)["image"], expected)
        torch.testing.assert_close(net.generate_images(prompts, PerSampleRng(0, keys)), expected)
