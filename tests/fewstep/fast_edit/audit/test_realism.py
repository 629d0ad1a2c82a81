"""Both signals against closed forms: bases whose answer is known, and pictures whose high frequencies are."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput
from scipy.ndimage import gaussian_filter

from fewstep.diffusion.schedules import per_sample
from fewstep.fast_edit.audit.realism import (
    FLAT,
    TIMES,
    denoising_error,
    high_frequency_ratio,
    high_pass_energy,
)
from tests.tiny_edit_base import (
    SCHEDULE,
    SIZES,
    Posterior,
    base,
    cosine_posterior_base,
    pictures,
    pixel_unet,
    posterior_base,
)


class Knows(UNet2DModel):
    """Answers as if every picture were this one: exactly, if it is."""

    picture = pictures(rows=1)

    def forward(self, sample, timestep):
        alpha, sigma = (per_sample(level, sample) for level in SCHEDULE((timestep + 1) / 1000))
        return UNet2DOutput(sample=(sample - alpha * self.picture) / sigma)


def levels():
    return SCHEDULE(torch.tensor(TIMES, dtype=torch.float64))


def test_a_base_that_knows_the_picture_errs_by_what_was_changed():
    change = torch.tensor([0.0, 0.1, -0.3])[:, None, None, None] * torch.ones(3, 3, 8, 8)
    found = denoising_error(base(Knows.from_config(SIZES).eval()), Knows.picture + change)
    alpha, sigma = levels()
    expected = torch.tensor([0.0, 0.01, 0.09]) * (alpha / sigma).square().mean()
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-3, atol=1e-6)


def test_the_exact_posterior_errs_as_theory_says():
    """Of data N(m, s^2): E|noise found - noise|^2 = (alpha sigma / v)^2 (x - m)^2 + (alpha s)^4 / v^2."""
    images = torch.cat([torch.full((1, 3, 8, 8), 0.2), pictures(rows=1), torch.full((1, 3, 8, 8), -1.0)])
    alpha, sigma = (level[:, None] for level in levels())
    spread = Posterior.spread
    variance = (alpha * spread) ** 2 + sigma**2
    distance = (images - Posterior.mean).square().mean((1, 2, 3))
    expected = (alpha * sigma / variance) ** 2 * distance + (alpha * spread) ** 4 / variance**2
    found = denoising_error(posterior_base(), images, draws=60)
    torch.testing.assert_close(found.double(), expected.mean(0), rtol=0.05, atol=0)


def test_rows_have_noise_of_their_own_whatever_the_batch():
    images, network = pictures(rows=1).repeat(3, 1, 1, 1), base(pixel_unet())
    whole = denoising_error(network, images, seed=5)
    torch.testing.assert_close(whole, denoising_error(network, images, seed=5, batch=2))
    assert len(set(whole.tolist())) == 3
    assert not torch.allclose(whole, denoising_error(network, images, seed=6))


def test_a_base_of_cosine_and_v_errs_as_one_of_linear_and_noise():
    found = denoising_error(cosine_posterior_base(), pictures(4))
    torch.testing.assert_close(found, denoising_error(posterior_base(), pictures(4)), rtol=0.02, atol=0)


def checkerboard(amplitude, side=64):
    places = torch.arange(side)
    return (amplitude * (-1.0) ** (places[:, None] + places)).expand(1, 3, side, side)


def test_a_checkerboard_is_nearly_all_high_frequency():
    """A Gaussian of 1 px lets exp(-pi^2) of it through, but at the edges."""
    for amplitude in (0.1, 0.8):
        assert high_pass_energy(checkerboard(amplitude, 256)).item() == pytest.approx(amplitude**2, rel=0.02)
    assert high_pass_energy(torch.full((1, 3, 16, 16), 0.7)).item() == pytest.approx(0, abs=1e-12)


def test_energy_is_that_of_another_librarys_filter():
    images = pictures(rows=2, height=24, width=17)
    for deviation in (1.0, 2.0):
        soft = gaussian_filter(images.double().numpy(), (0, 0, deviation, deviation), mode="nearest", truncate=3)
        expected = np.square(images.double().numpy() - soft).mean((1, 2, 3))
        assert high_pass_energy(images, deviation).tolist() == pytest.approx(expected, rel=1e-5)


def test_ratio_grows_with_the_square_of_contrast_and_does_not_explode_on_flat_pictures():
    images = pictures(rows=2, height=16, width=16)
    assert high_frequency_ratio(0.5 * images, images).tolist() == pytest.approx([0.25, 0.25], rel=1e-5)
    flat = torch.full((1, 3, 64, 64), 0.3)
    assert high_frequency_ratio(flat + 0.2, flat).item() == 1
    assert high_frequency_ratio(flat + checkerboard(0.004), flat).item() == 1  # half a grey level
    assert high_frequency_ratio(flat + checkerboard(0.1), flat).item() == pytest.approx(0.01 / FLAT, rel=0.1)


def test_what_cannot_be_meant_is_one_line():
    with pytest.raises(ValueError, match="draws=0: must be at least 1"):
        denoising_error(posterior_base(), pictures(), draws=0)
    with pytest.raises(ValueError, match=r"times=1.2: must be above 0 and at most 1"):
        denoising_error(posterior_base(), pictures(), times=(1.2,))
    with pytest.raises(ValueError, match="deviation=0: must be above 0"):
        high_pass_energy(pictures(), 0)
