"""Estimates with a gradient: posterior means, loops unrolled by hand with diffusers' numbers, updates and passes."""

import pytest
import torch
from diffusers import DDIMScheduler

from fewstep.backbones.pipelines import DDPM_SCHEDULER
from fewstep.fast_edit.encoding import Encoder, Encoding
from fewstep.fast_edit.estimates import GradientMode, estimates, pass_rng
from fewstep.fast_edit.tuned import TunedAdapters, TunedCopies
from fewstep.rng import PerSampleRng
from tests.tiny_edit_base import Calls, Posterior, base, pictures, posterior_base, trained

ENCODING, KEYS, STEPS = Encoding(0.3), ["a", "b"], 3
MODES = {
    "one_step": GradientMode("one_step"),
    "random_t": GradientMode("random_t", t_lo=0.1),
    "last_k": GradientMode("last_k", STEPS, 2),
    "eff": GradientMode("eff", STEPS),
    "full": GradientMode("full", STEPS),
}


def alpha_bar(timestep):
    return DDIMScheduler(**{k: v for k, v in DDPM_SCHEDULER.items() if k != "clip_sample"}).alphas_cumprod[timestep]


def run(tuned, how, number=0, encoding=ENCODING, data=None, keys=KEYS):
    """What a caller gets that takes no steps."""
    data = pictures() if data is None else data
    return list(estimates(tuned, "edit", data, Encoder(tuned.base, encoding), pass_rng(0, keys, number), how))


def weighted(picture):
    return (picture * torch.randn(picture.shape, generator=torch.Generator().manual_seed(9))).sum()


def gradients(tuned, picture):
    return torch.autograd.grad(weighted(picture), tuned.parameters("edit"))


def by_hand(network, with_gradient=STEPS):
    """DDIM from t0 = 0.3 in three steps, with the alphas of diffusers and no function of ours."""
    noise = PerSampleRng(0, ["a:0", "b:0"]).normal(3, 8, 8)
    x = alpha_bar(299).sqrt() * pictures() + (1 - alpha_bar(299)).sqrt() * noise
    for place, step in enumerate((299, 199, 99)):
        x = x.detach() if place <= STEPS - with_gradient else x
        eps = network(x, torch.full((2,), step)).sample
        clean = (x - (1 - alpha_bar(step)).sqrt() * eps) / alpha_bar(step).sqrt()
        x = clean if step == 99 else alpha_bar(step - 100).sqrt() * clean + (1 - alpha_bar(step - 100)).sqrt() * eps
    return x


def test_one_step_is_the_posterior_mean():
    tuned = TunedCopies(posterior_base())
    ((picture, t),) = run(tuned, MODES["one_step"])
    noise = PerSampleRng(0, ["a:0", "b:0"]).normal(3, 8, 8)
    level = alpha_bar(299)
    x = level.sqrt() * pictures() + (1 - level).sqrt() * noise
    variance = Posterior.spread**2
    gain = level.sqrt() * variance / (level * variance + 1 - level)
    torch.testing.assert_close(
        picture, Posterior.mean + gain * (x - level.sqrt() * Posterior.mean), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(t, torch.full((2,), 0.3))


def test_random_t_noises_the_data_at_a_trained_time_of_its_own():
    tuned = TunedCopies(posterior_base())
    calls, seen = Calls(tuned.networks["edit"]), []
    for number in range(40):
        ((picture, t),) = run(tuned, MODES["random_t"], number)
        rng = pass_rng(0, KEYS, number)
        rng.uniform()
        noise = rng.normal(3, 8, 8)
        level = torch.stack([alpha_bar(step) for step in calls.timesteps[-1]])[:, None, None, None]
        x = level.sqrt() * pictures() + (1 - level).sqrt() * noise
        gain = level.sqrt() * Posterior.spread**2 / (level * Posterior.spread**2 + 1 - level)
        expected = Posterior.mean + gain * (x - level.sqrt() * Posterior.mean)
        torch.testing.assert_close(picture, expected, rtol=1e-3, atol=1e-3)
        assert ((t * 1000).round() - 1).int().tolist() == calls.timesteps[-1]
        seen += t.tolist()
    assert 0.1 - 1e-3 <= min(seen) < 0.13
    assert 0.27 < max(seen) <= 0.3 + 1e-6
    assert abs(sum(seen) / len(seen) - 0.2) < 0.03


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", [TunedAdapters, TunedCopies])
def test_full_has_the_gradient_of_a_loop_unrolled_by_hand(kind, checkpointing):
    tuned = kind(base())
    tuned = trained(tuned) if kind is TunedAdapters else tuned
    ((picture, t),) = run(tuned, GradientMode("full", STEPS, checkpointing=checkpointing))
    found = gradients(tuned, picture)
    if kind is TunedAdapters:
        with tuned.adapters.rows([("edit", 2)]):
            expected = by_hand(tuned.base.network)
    else:
        expected = by_hand(tuned.networks["edit"])
    torch.testing.assert_close(picture, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(t, torch.full((2,), 0.1))
    for ours, theirs in zip(found, gradients(tuned, expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("last_k", [1, 2])
def test_last_k_is_the_picture_of_full_with_the_gradient_of_its_last_steps(last_k):
    tuned = TunedCopies(base())
    ((picture, _),) = run(tuned, GradientMode("last_k", STEPS, last_k))
    ((full, _),) = run(tuned, MODES["full"])
    assert torch.equal(picture, full)
    found = gradients(tuned, picture)
    expected = by_hand(tuned.networks["edit"], last_k)
    of_full = gradients(tuned, full)
    for ours, theirs in zip(found, gradients(tuned, expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert max(float((a - b).abs().max()) for a, b in zip(found, of_full, strict=True)) > 1e-2


def test_eff_updates_at_every_step_and_detaches_between():
    """Against the loop of DiffusionCLIP's efficient mode, by hand on a network of its own."""
    tuned, alone = TunedCopies(base()), TunedCopies(base()).networks["edit"]
    updates, times = 0, []
    optimizer = torch.optim.SGD(tuned.parameters("edit"), lr=1e-3)
    for picture, t in estimates(
        tuned, "edit", pictures(), Encoder(tuned.base, ENCODING), pass_rng(0, KEYS, 0), MODES["eff"]
    ):
        optimizer.zero_grad()
        weighted(picture).backward()
        optimizer.step()
        updates, times = updates + 1, [*times, round(float(t[0]), 6)]
    assert updates == MODES["eff"].updates == STEPS
    assert times == [0.3, 0.2, 0.1]
    moved, by_hand_step = 0.0, torch.optim.SGD(alone.parameters(), lr=1e-3)
    noise = PerSampleRng(0, ["a:0", "b:0"]).normal(3, 8, 8)
    x = alpha_bar(299).sqrt() * pictures() + (1 - alpha_bar(299)).sqrt() * noise
    for step in (299, 199, 99):
        eps = alone(x, torch.full((2,), step)).sample
        clean = (x - (1 - alpha_bar(step)).sqrt() * eps) / alpha_bar(step).sqrt()
        by_hand_step.zero_grad()
        weighted(clean).backward()
        by_hand_step.step()
        if step > 99:
            before = alpha_bar(step - 100)
            x = (before.sqrt() * clean + (1 - before).sqrt() * eps).detach()
    for ours, theirs, old in zip(
        tuned.parameters("edit"), alone.parameters(), base().network.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        moved += float((ours - old).abs().sum())
    assert moved > 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_passes_are_as_many_as_told(mode, checkpointing):
    how = GradientMode(mode, STEPS, MODES[mode].last_k, 0.1, checkpointing)
    tuned = trained(TunedAdapters(base()))
    calls = Calls(tuned.base.network)
    pairs = run(tuned, how)
    assert len(pairs) == how.updates
    assert sum(calls.rows) == 2 * how.passes
    found = [gradients(tuned, picture) for picture, _ in pairs]
    repeated = {"last_k": 2}.get(mode, how.passes) if checkpointing else 0
    assert sum(calls.rows) == 2 * (how.passes + repeated)
    plain = [gradients(tuned, picture) for picture, _ in run(tuned, MODES[mode])]
    for ours, theirs in zip(found, plain, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_graph_of_full_keeps_as_many_steps_as_it_has():
    tuned, sizes = TunedCopies(base()), []
    for how in (MODES["one_step"], GradientMode("full", 6), GradientMode("full", 6, checkpointing=True)):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.nbytes) or x, lambda x: x):
            run(tuned, how)
        sizes.append(sum(kept))
    assert sizes[1] >= 5 * sizes[0]
    assert sizes[2] < sizes[0]


@pytest.mark.parametrize("mode", MODES)
def test_a_row_does_not_depend_on_its_batch_and_noise_is_fresh_in_every_pass(mode):
    tuned = trained(TunedAdapters(base()))
    whole = run(tuned, MODES[mode], data=pictures(3), keys=["a", "b", "c"])
    alone = run(tuned, MODES[mode], data=pictures(3)[1:2], keys=["b"])
    for (picture, t), (one, its) in zip(whole, alone, strict=True):
        assert float(t[1]) == float(its[0])
        torch.testing.assert_close(one, picture[1:2], rtol=1e-4, atol=1e-4)
    assert not torch.equal(run(tuned, MODES[mode], 1)[0][0], run(tuned, MODES[mode])[0][0])
    assert torch.equal(run(tuned, MODES[mode], 1)[0][0], run(tuned, MODES[mode], 1)[0][0])


def test_ddim_encoding_has_no_noise_and_one_step_of_full_is_one_step():
    tuned, walk = trained(TunedAdapters(base())), Encoding(0.3, "ddim", 4)
    first, second = (run(tuned, MODES["one_step"], number, walk)[0][0] for number in (0, 1))
    assert torch.equal(first, second)
    for mode in ("full", "eff", "last_k"):
        assert torch.equal(run(tuned, GradientMode(mode, 1), 0, walk)[0][0], first)


def test_mistakes_are_one_line():
    tuned = TunedCopies(base())
    with pytest.raises(ValueError, match="mode='half': choose one of one_step"):
        GradientMode("half")
    with pytest.raises(ValueError, match="num_steps=0"):
        GradientMode("full", 0)
    with pytest.raises(ValueError, match="last_k=4: must be at least 1 and at most 3"):
        GradientMode("last_k", 3, 4)
    with pytest.raises(ValueError, match="noises pictures itself"):
        run(tuned, MODES["random_t"], encoding=Encoding(0.3, "ddim", 2))
    with pytest.raises(ValueError, match=r"t_lo=0\.5: must be above 0 and at most 0\.3"):
        run(tuned, GradientMode("random_t", t_lo=0.5))
    with pytest.raises(ValueError, match="no edit is named 'hat'"):
        next(estimates(tuned, "hat", pictures(), Encoder(tuned.base, ENCODING), None, MODES["full"]))
