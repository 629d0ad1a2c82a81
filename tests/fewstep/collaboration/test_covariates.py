"""Covariates of pairs, by closed forms: straight and bent trajectories, pictures of known size, counted words."""

import math

import pytest
import torch

from fewstep.collaboration.analysis.covariates import complexity, curvature, prompt_lengths, root_mean_square
from fewstep.diffusion.guidance import unguided
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import DiscreteSchedule, RectifiedFlow
from fewstep.diffusion.solvers import even_times, jumps
from tests.tiny_diffusion import tokenizer

SCHEDULE = DiscreteSchedule()
EPS = Parametrization(SCHEDULE, "eps")


def normal(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def levels(times):
    alpha, sigma = SCHEDULE(torch.tensor(times, dtype=torch.float64))
    return alpha, sigma / alpha


def test_the_trajectory_to_a_single_point_is_straight():
    """Data at one point: the noise that a perfect network sees never changes."""
    point, times = normal(2, 4), even_times(7, 1.0, 0.0)

    def perfect(x, t, scale, condition):
        alpha, sigma = SCHEDULE(t)
        return (x - alpha[:, None] * point) / sigma[:, None]

    noise = 3 * normal(2, 4).flip(0)
    states = [noise, *jumps(perfect, EPS, noise, times, {}, unguided)]
    torch.testing.assert_close(states[-1], point)
    assert curvature(states, times, SCHEDULE).max() < 1e-20


def test_a_bend_by_hand():
    """Two straight parts with the slopes (1, 1) and (1, -b): as much of each, so that the chord is (1, (1 - b) / 2)."""
    half = SCHEDULE.time(torch.tensor(-2 * math.log(levels([1.0])[1].item() / 2), dtype=torch.float64)).item()
    times = (1.0, half, 0.0)
    alpha, s = levels(times)
    assert s[1].item() == pytest.approx(s[0].item() / 2, rel=1e-6)
    for b in (-1.0, 0.0, 2.0):
        middle = torch.tensor([1.0, -b], dtype=torch.float64) * s[1]
        first = middle + torch.tensor([1.0, 1.0], dtype=torch.float64) * (s[0] - s[1])
        points = torch.stack([first, middle, torch.zeros(2)])
        expected = (1 + b) ** 2 / 4 / (1 + (1 - b) ** 2 / 4)
        found = curvature(list((points * alpha[:, None])[:, None]), times, SCHEDULE)
        assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-9)
        turned = points @ torch.linalg.qr(normal(2, 2)).Q * 7 + 5  # turned, enlarged and moved
        found = curvature(list((turned * alpha[:, None])[:, None]), times, SCHEDULE)
        assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_gaussian_data_bend_the_trajectory_as_their_closed_form_says():
    """Data N(0, a^2): x / alpha = c sqrt(a^2 + s^2), whose slopes are c s / sqrt(a^2 + s^2)."""
    times = even_times(400, 1.0, 0.0)
    alpha, s = levels(times)
    for a in (0.1, 1.0, 5.0):
        states = [
            (value * math.sqrt(a**2 + level**2) * torch.ones(1, 3)) for value, level in zip(alpha, s, strict=True)
        ]
        chord = (math.sqrt(a**2 + s[0] ** 2) - a) / s[0]
        middles = (s[1:] + s[:-1]) / 2
        slopes = middles / (a**2 + middles**2).sqrt()
        expected = ((slopes - chord) / chord).square().mean()
        assert curvature(states, times, SCHEDULE).item() == pytest.approx(expected.item(), rel=0.02)


def test_trajectories_that_have_no_curvature():
    x = normal(1, 2)
    with pytest.raises(ValueError, match="the schedule begins in noise alone"):
        curvature([x, x], (1.0, 0.0), RectifiedFlow())
    for states, times in (([x], (1.0, 0.0)), ([x, x], (1.0, 0.5)), ([x], (0.0,))):
        with pytest.raises(ValueError, match="give a state for each, and end in time 0"):
            curvature(states, times, SCHEDULE)


def test_a_flat_picture_takes_few_bytes_and_noise_takes_all():
    flat = torch.full((3, 64, 64), 0.5)
    bars = flat.clone()
    bars[:, :, ::7] = -1
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = complexity(torch.stack([flat, bars, noise]))
    assert found[0] < found[1] < 0.2
    assert 3 <= found[2] <= 3.1  # bytes a pixel, and a header


def test_lengths_are_without_the_ends_of_a_prompt(tmp_path):
    words = tokenizer(tmp_path)
    prompts = ["a red square", "red", "a red square a red square"]
    lengths = prompt_lengths(words, prompts)
    assert lengths.tolist() == [len(words.tokenize(prompt)) for prompt in prompts]
    assert lengths[2] == 2 * lengths[0] > 2 * lengths[1]


def test_the_distance_of_pixels():
    images = torch.zeros(2, 3, 4, 4)
    assert root_mean_square(images, images + torch.tensor([0.5, -2.0])[:, None, None, None]).tolist() == [0.5, 2.0]
