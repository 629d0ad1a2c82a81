"""x_t0: closed forms for data that are normal, and a memory that knows pictures by their content alone."""

import math
from dataclasses import replace

import pytest
import torch

from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.solvers import ddim, even_times
from fewstep.fast_edit.encoding import Encoder, Encoding
from fewstep.rng import PerSampleRng
from tests.tiny_edit_base import COSINE, SCHEDULE, Calls, Posterior, base, pictures, posterior_base

WALK = Encoding(0.4, "ddim", 5)


def levels(t):
    alpha, sigma = SCHEDULE(torch.tensor(t, dtype=torch.float64))
    return float(alpha), float(sigma)


def test_stochastic_is_alpha_data_and_sigma_noise_of_the_row_and_costs_nothing():
    found, data = base(), pictures(3)
    calls, encoder = Calls(found.network), Encoder(found, Encoding(0.35))
    x = encoder(data, PerSampleRng(7, ["a", "b", "c"]))
    alpha, sigma = levels(0.35)
    noise = PerSampleRng(7, ["a", "b", "c"]).normal(3, 8, 8)
    torch.testing.assert_close(x, alpha * data + sigma * noise)
    assert torch.equal(encoder(data[1:2], PerSampleRng(7, ["b"])), x[1:2])
    assert not torch.equal(encoder(data, PerSampleRng(8, ["a", "b", "c"])), x)
    assert (calls.rows, encoder.passes, Encoding(0.35).passes) == ([], 0, 0)


def flowed(x, spread, t):
    """The exact probability flow of N(mean, spread^2) from data to time t (Song et al. 2021, section 4.3)."""
    alpha, sigma = levels(t)
    return alpha * Posterior.mean + math.sqrt(alpha**2 * spread**2 + sigma**2) / spread * (x - Posterior.mean)


def test_ddim_tends_to_the_exact_flow_and_decoding_returns():
    found, data = posterior_base(), pictures()
    errors, returns = [], []
    for steps in (25, 100):
        x = Encoder(found, Encoding(0.4, "ddim", steps))(data)
        errors.append(float((x - flowed(data, Posterior.spread, 0.4)).abs().max()))
        back = ddim(found.denoiser, found.parametrization, x, even_times(steps, 0.4, 0.0), {})
        returns.append(float((back - data).abs().max()))
    for coarse, fine in (errors, returns):
        assert fine < coarse / 3  # four times as many steps of a method of first order
        assert fine < 0.05


def test_ddim_draws_nothing_counts_its_passes_and_keeps_no_gradient():
    found, data = base(), pictures(3).requires_grad_(True)
    calls, encoder = Calls(found.network), Encoder(found, WALK)
    x = encoder(data, PerSampleRng(0, [1, 2, 3]))
    assert torch.equal(x, encoder(data, PerSampleRng(5, [4, 5, 6])))
    assert encoder.passes == sum(calls.rows) == 2 * 3 * WALK.passes == 30
    assert calls.timesteps[:5] == [[step] * 3 for step in (0, 79, 159, 239, 319)]
    assert not x.requires_grad
    torch.testing.assert_close(encoder(data[1:2]), x[1:2], rtol=1e-4, atol=1e-5)


def test_the_memory_knows_pictures_by_content_base_and_encoding():
    """The authors' cache, named after the edit and t0, gave the latent of the first photo for every other one."""
    found, data = base(), pictures(4)
    encoder = Encoder(found, WALK, remember=4)
    fresh = Encoder(found, WALK)(data)
    assert torch.equal(encoder(data[:2]), Encoder(found, WALK)(data[:2]))
    assert encoder.passes == 2 * 5
    torch.testing.assert_close(encoder(data), fresh, rtol=1e-4, atol=1e-5)  # two known, two new
    assert encoder.passes == 4 * 5
    torch.testing.assert_close(encoder(data.flip(0)), fresh.flip(0), rtol=1e-4, atol=1e-5)
    assert encoder.passes == 4 * 5
    other = data + 0.01
    torch.testing.assert_close(encoder(other), Encoder(found, WALK)(other), rtol=1e-4, atol=1e-5)
    assert encoder.passes == 8 * 5
    encoder(data)  # only the four last are remembered
    assert encoder.passes == 12 * 5


@pytest.mark.parametrize("changed", ["t0", "num_steps", "base", "schedule", "prediction"])
def test_whatever_changes_the_answer_changes_the_key(changed):
    found, row = base(), pictures(1)[0]
    encodings = {"t0": replace(WALK, t0=0.3), "num_steps": replace(WALK, num_steps=6)}
    bases = {"base": base(seed=1), "schedule": base(schedule=COSINE), "prediction": base(prediction="v")}
    other = Encoder(bases.get(changed, found), encodings.get(changed, WALK), remember=1)
    own = Encoder(found, WALK, remember=1)
    assert own._key(row) != other._key(row)
    assert own._key(row) == Encoder(base(), WALK, remember=9)._key(row.clone())
    assert own._key(row) != own._key(row.reshape(3, 4, 16))
    assert not torch.equal(own(row[None]), other(row[None]))


def test_what_is_kept_holds_no_batch():
    encoder = Encoder(base(), WALK, remember=4)
    x = encoder(pictures(4))
    assert {state.untyped_storage().nbytes() for state in encoder._known.values()} == {x[0].nbytes}


def test_switching_the_kind_takes_effect():
    found, data = base(), pictures(1)
    assert not torch.equal(Encoder(found, WALK, 9)(data), Encoder(found, Encoding(0.4), 9)(data, PerSampleRng(0, [0])))


@pytest.mark.parametrize("t0", [0.0, -0.1, 1.01, 350.0, math.nan])
def test_a_t0_outside_the_schedule_is_one_line(t0):
    with pytest.raises(ValueError, match="edits start inside the schedule"):
        Encoding(t0)


def test_other_mistakes_are_one_line():
    with pytest.raises(ValueError, match="kind='DDIM': choose one of stochastic, ddim"):
        Encoding(0.3, "DDIM")
    with pytest.raises(ValueError, match="num_steps=0: must be at least 1"):
        Encoding(0.3, "ddim", 0)
    found = base()
    clean = replace(found, parametrization=Parametrization(SCHEDULE, "x0"))
    with pytest.raises(ValueError, match='"x0" says nothing of the noise at t = 0'):
        Encoder(clean, WALK)
