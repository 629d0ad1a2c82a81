"""Edits on pictures: which times are asked, what cancels exactly, closed forms, and how many passes it takes."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler

from fewstep.backbones.pipelines import DDPM_SCHEDULER
from fewstep.diffusion.solvers import ddim, even_times
from fewstep.fast_edit.application import Application, apply_edit, project
from fewstep.fast_edit.edit_base import load_base
from fewstep.fast_edit.encoding import Encoder, Encoding
from fewstep.fast_edit.tuned import TunedAdapters, TunedCopies
from fewstep.rng import PerSampleRng
from tests.tiny_diffusion import write_pipeline
from tests.tiny_edit_base import SCHEDULE, Calls, Posterior, base, pictures, posterior_base, trained

PLAIN = Application(Encoding(0.3), 3, residual=False, projection=0)
RESIDUAL = replace(PLAIN, residual=True)


def adapters(names=("edit", "other"), **options):
    return trained(TunedAdapters(base(), names, rank=2, **options))


def shifted(**means):
    """The exact answer for normal data, and for data of other means as edits."""
    tuned = TunedCopies(posterior_base(), list(means))
    for name, mean in means.items():
        tuned.networks[name].mean = mean
    return tuned


def applied(tuned, how, edits="edit", data=None, keys=("a", "b"), **options):
    data = pictures() if data is None else data
    return apply_edit(tuned, data, edits, PerSampleRng(0, list(keys)), how, **options)


def test_one_step_is_one_call_at_t0():
    """The authors' grid of one step was the time 0, where nothing is edited."""
    tuned = TunedCopies(base())
    calls = Calls(tuned.networks["edit"])
    found = applied(tuned, replace(PLAIN, num_steps=1))
    assert calls.timesteps == [[299, 299]]
    data, noise = pictures(), PerSampleRng(0, ["a", "b"]).normal(3, 8, 8)
    alpha, sigma = (float(level) for level in SCHEDULE(torch.tensor(0.3)))
    x = alpha * data + sigma * noise
    with torch.no_grad():
        eps = tuned.networks["edit"](x, torch.tensor([299, 299])).sample
    torch.testing.assert_close(found, ((x - sigma * eps) / alpha).clamp(-1, 1), rtol=1e-4, atol=1e-5)


def test_the_grid_is_that_of_the_application():
    tuned = TunedCopies(base())
    calls = Calls(tuned.networks["edit"])
    applied(tuned, replace(PLAIN, encoding=Encoding(0.35), num_steps=6))
    assert [steps[0] for steps in calls.timesteps] == [349, 291, 232, 174, 116, 57]


def test_every_step_has_the_alphas_of_the_step_that_the_network_is_told():
    """A grid between trained times, decoded with diffusers' numbers and no function of ours."""
    tuned = TunedCopies(base())
    found = applied(tuned, replace(PLAIN, encoding=Encoding(0.35), num_steps=6))
    alphas_bar = DDIMScheduler(**{k: v for k, v in DDPM_SCHEDULER.items() if k != "clip_sample"}).alphas_cumprod
    steps = (349, 291, 232, 174, 116, 57)
    x = alphas_bar[349].sqrt() * pictures() + (1 - alphas_bar[349]).sqrt() * PerSampleRng(0, ["a", "b"]).normal(3, 8, 8)
    with torch.no_grad():
        for step, after in zip(steps, (*steps[1:], None), strict=True):
            eps = tuned.networks["edit"](x, torch.full((2,), step)).sample
            x = (x - (1 - alphas_bar[step]).sqrt() * eps) / alphas_bar[step].sqrt()
            x = x if after is None else alphas_bar[after].sqrt() * x + (1 - alphas_bar[after]).sqrt() * eps
    torch.testing.assert_close(found, x.clamp(-1, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strength_of", ["weights", "outputs"])
@pytest.mark.parametrize("kind", ["stochastic", "ddim"])
def test_strength_zero_is_exactly_what_the_base_decodes(strength_of, kind):
    tuned, plain = adapters(), base()
    how = replace(PLAIN, encoding=Encoding(0.3, kind, 4), strength=0.0, strength_of=strength_of)
    x = Encoder(plain, how.encoding)(pictures(), PerSampleRng(0, ["a", "b"]))
    with torch.no_grad():
        expected = ddim(plain.denoiser, plain.parametrization, x, even_times(3, 0.3, 0.0), {}).clamp(-1, 1)
    assert torch.equal(applied(tuned, how), expected)
    assert (applied(tuned, replace(how, strength=1.0)) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("strength_of", ["weights", "outputs", "residual"])
def test_strength_zero_with_residual_is_exactly_the_picture(strength_of):
    tuned, data = adapters(), pictures()
    calls = Calls(tuned.base.network)
    for how in (RESIDUAL, replace(RESIDUAL, projection=0.05)):
        found = applied(tuned, replace(how, strength=0.0, strength_of=strength_of), data=data)
        assert torch.equal(found, data)
    assert calls.rows == []
    nearly = applied(tuned, replace(RESIDUAL, strength=1e-6, strength_of=strength_of))
    torch.testing.assert_close(nearly, data, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [TunedAdapters, TunedCopies])
def test_with_residual_an_untrained_edit_is_the_picture(kind):
    torch.testing.assert_close(applied(kind(base()), RESIDUAL), pictures(), rtol=0, atol=1e-4)


def gain(num_steps, t0):
    """How far the decoding of a normal x_t0 moves for each unit that the mean of the data moves, in plain floats."""
    state, times = 0.0, even_times(num_steps, t0, 0.0)
    for start, end in pairwise(times):
        (alpha, sigma), (after, rest) = ([float(v) for v in SCHEDULE(torch.tensor(t).double())] for t in (start, end))
        eps = sigma * (state - alpha) / (alpha**2 * Posterior.spread**2 + sigma**2)
        state = after * (state - sigma * eps) / alpha + rest * eps
    return state


def test_the_residual_of_another_mean_is_one_number_and_nothing_is_clamped_before_the_end():
    tuned = shifted(edit=Posterior.mean + 2.0)
    data = torch.full((2, 3, 8, 8), -0.9)
    found = applied(tuned, RESIDUAL, data=data)
    change = 2.0 * gain(3, 0.3)
    assert 1 < change < 1.8  # decoded with the edit, pixels go beyond 1
    torch.testing.assert_close(found, data + change, rtol=1e-3, atol=1e-3)
    half = applied(tuned, replace(RESIDUAL, strength=0.5, strength_of="residual"), data=data)
    torch.testing.assert_close(half, data + change / 2, rtol=1e-3, atol=1e-3)
    assert torch.equal(applied(tuned, replace(RESIDUAL, strength=9.0, strength_of="residual")), torch.ones(2, 3, 8, 8))


def test_mixed_outputs_of_means_are_the_output_of_the_mixed_mean():
    tuned, data = shifted(edit=0.6, other=-0.4), torch.zeros(2, 3, 8, 8)
    both = applied(tuned, RESIDUAL, {"edit": 0.5, "other": 0.25}, data)
    change = (0.5 * 0.4 + 0.25 * -0.6) * gain(3, 0.3)
    torch.testing.assert_close(both, data + change, rtol=1e-3, atol=1e-3)
    doubled = applied(tuned, replace(RESIDUAL, strength=2.0, strength_of="outputs"), {"edit": 0.5, "other": 0.25}, data)
    torch.testing.assert_close(doubled, data + 2 * change, rtol=1e-3, atol=1e-3)


def test_below_the_split_only_the_base_is_asked():
    tuned = TunedCopies(base())
    calls, of_base = Calls(tuned.networks["edit"]), Calls(tuned.base.network)
    applied(tuned, replace(PLAIN, split=0.2))
    assert [steps[0] for steps in calls.timesteps] == [299, 199]
    assert [steps[0] for steps in of_base.timesteps] == [99]
    whole, split = (applied(adapters(), replace(PLAIN, split=at)) for at in (0.0, 0.2))
    assert not torch.equal(whole, split)


HOWS = {
    "plain": PLAIN,
    "residual": RESIDUAL,
    "default": Application(),
    "one": replace(RESIDUAL, num_steps=1),
    "split": replace(RESIDUAL, split=0.15),
    "split_plain": replace(PLAIN, split=0.15),
    "outputs": replace(RESIDUAL, strength=0.5, strength_of="outputs"),
    "outputs_plain": replace(PLAIN, strength=0.5, strength_of="outputs"),
    "weights": replace(RESIDUAL, strength=0.5),
    "none": replace(PLAIN, strength=0.0, projection=0.1),
    "nothing": replace(RESIDUAL, strength=0.0),
    "ddim": replace(RESIDUAL, encoding=Encoding(0.3, "ddim", 7), projection=0.1, projection_steps=2),
}


@pytest.mark.parametrize("name", HOWS)
@pytest.mark.parametrize("edits", ["edit", {"edit": 0.5, "other": 0.4}], ids=["one_edit", "two_edits"])
def test_passes_are_as_many_as_told(name, edits):
    tuned, how = adapters(), HOWS[name]
    calls = Calls(tuned.base.network)
    applied(tuned, how, edits)
    assert sum(calls.rows) == 2 * how.passes(edits)


def test_the_paper_and_the_default_cost_this():
    assert Application(residual=False, projection=0).passes("edit") == 6
    assert Application().passes("edit") == 16
    encoding = Encoding(0.35, "ddim", 39)
    assert Application(encoding, residual=False, projection=0).passes("edit") == 45


def test_the_edit_and_the_base_are_asked_in_one_call():
    tuned = adapters()
    calls = Calls(tuned.base.network)
    applied(tuned, RESIDUAL)
    assert calls.rows == [4, 4, 4]


def test_projection_draws_towards_what_the_base_knows():
    found, data = posterior_base(), torch.full((2, 3, 8, 8), 3.0)
    found.network.spread = 0.1
    alpha, sigma = (float(level) for level in SCHEDULE(torch.tensor(0.1).double()))
    rng = PerSampleRng(0, ["a", "b"])
    noise = PerSampleRng(0, ["a", "b"]).normal(3, 8, 8)
    back = project(found, data, rng, 0.1, 100)
    x = alpha * data + sigma * noise
    exact = Posterior.mean + 0.1 / (alpha**2 * 0.1**2 + sigma**2) ** 0.5 * (x - alpha * Posterior.mean)
    assert float((exact - Posterior.mean).mean()) < 0.5 * (3.0 - Posterior.mean)
    torch.testing.assert_close(back, exact, rtol=0.02, atol=0.02)
    tuned = TunedCopies(found)
    known = applied(tuned, replace(RESIDUAL, projection=0.1, projection_steps=4), data=data / 4)
    assert (known - Posterior.mean).abs().mean() < (data / 4 - Posterior.mean).abs().mean()


def test_the_mask_says_where_a_picture_may_change():
    tuned, data = adapters(), pictures()
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :4] = 1
    for how in (PLAIN, RESIDUAL, replace(RESIDUAL, projection=0.1)):
        whole, found = applied(tuned, how), applied(tuned, how, mask=mask)
        assert torch.equal(found[..., 4:], data[..., 4:])
        torch.testing.assert_close(found[..., :4], whole[..., :4])
    with pytest.raises(ValueError, match=r"the mask has shape \[2, 8, 8\]"):
        applied(tuned, PLAIN, mask=mask[:, 0])


@pytest.mark.parametrize("name", ["plain", "default", "ddim", "outputs"])
@pytest.mark.parametrize("merged", [False, True])
def test_a_picture_does_not_depend_on_its_batch_and_is_not_touched(name, merged):
    tuned, data = adapters(merged=merged), pictures(3, 8, 12)
    kept = data.clone()
    whole = applied(tuned, HOWS[name], data=data, keys=["a", "b", "c"])
    alone = applied(tuned, HOWS[name], data=data[1:2], keys=["b"])
    torch.testing.assert_close(alone, whole[1:2], rtol=1e-3, atol=1e-4)
    assert torch.equal(data, kept)
    assert whole.shape == data.shape
    assert whole.abs().max() <= 1


def test_an_encoder_that_remembers_serves_several_edits():
    tuned, how = adapters(), HOWS["ddim"]
    encoder = Encoder(tuned.base, how.encoding, remember=2)
    first = applied(tuned, how, encoder=encoder)
    passes = encoder.passes
    applied(tuned, how, "other", encoder=encoder)
    assert encoder.passes == passes == 2 * 7
    torch.testing.assert_close(first, applied(tuned, how), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="give one of the same"):
        applied(tuned, PLAIN, encoder=encoder)


def test_latents_are_edited_too(tmp_path):
    tuned = trained(TunedAdapters(load_base(write_pipeline(tmp_path / "pipeline", "sd"))))
    data = pictures(height=16, width=24)
    found = applied(tuned, RESIDUAL, data=data)
    assert found.shape == data.shape
    assert (found - data).abs().max() > 1e-3
    assert torch.equal(applied(tuned, replace(RESIDUAL, strength=0.0), data=data), data)
    mask = torch.zeros(2, 1, 16, 24)
    assert torch.equal(applied(tuned, Application(Encoding(0.3)), data=data, mask=mask), data)


def test_mistakes_are_one_line():
    tuned = TunedCopies(base())
    with pytest.raises(ValueError, match="num_steps=0: must be at least 1"):
        Application(num_steps=0)
    with pytest.raises(ValueError, match=r"split=0\.5: must be at least 0 and at most 0\.35"):
        Application(split=0.5)
    with pytest.raises(ValueError, match="strength=-1"):
        Application(strength=-1)
    with pytest.raises(ValueError, match="needs residual=True"):
        Application(residual=False, strength_of="residual")
    calls = Calls(tuned.base.network)
    with pytest.raises(ValueError, match="no edit is named 'hat'; choose one of edit"):
        applied(tuned, Application(Encoding(0.3, "ddim", 3)), "hat")
    with pytest.raises(ValueError, match="no edit to apply"):
        applied(tuned, PLAIN, {})
    with pytest.raises(ValueError, match="8 x 9 pixels"):
        applied(tuned, PLAIN, data=pictures(width=9))
    assert calls.rows == []
