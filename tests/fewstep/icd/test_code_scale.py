"""The one number by which noise becomes as large as codes: a minimum of a divergence, and what is drawn with it."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from fewstep.files.plain_json import read_json
from fewstep.icd.code_scale import mean_square, scale_of_codes
from fewstep.icd.editing import Editing
from fewstep.icd.export_card import write_card
from fewstep.icd.pair import InvertibleConsistency
from fewstep.rng import PerSampleRng
from tests.tiny_export import write_export

PROMPTS = ["a red square", "a blue cube"]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("icd"))


@pytest.fixture(scope="module")
def pair(export):
    return InvertibleConsistency.load(export)


def rng():
    return PerSampleRng(0, ["a", "b"])


def test_no_other_scale_of_noise_is_nearer_to_the_codes():
    """Codes of a Gaussian with correlations and a mean, whose divergence torch knows in closed form."""
    generator = torch.Generator().manual_seed(0)
    root, mean = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((6, 6), (6,)))
    codes = MultivariateNormal(0.3 * mean, scale_tril=torch.linalg.cholesky(root @ root.T / 20 + 0.1 * torch.eye(6)))

    def divergence(scale):
        noise = MultivariateNormal(torch.zeros(6, dtype=torch.float64), scale**2 * torch.eye(6, dtype=torch.float64))
        return kl_divergence(codes, noise)

    torch.manual_seed(1)
    squares = mean_square(codes.sample((100_000,)))
    found = scale_of_codes(squares.double().sum().item(), len(squares))
    second_moment = (codes.covariance_matrix.trace() + codes.mean.square().sum()).item()
    assert found == pytest.approx(math.sqrt(second_moment / 6), rel=0.01)
    scales = torch.linspace(0.5, 2, 301) * found
    best = scales[torch.stack([divergence(scale) for scale in scales.double()]).argmin()]
    assert best.item() == pytest.approx(found, rel=0.01)


def test_squares_are_averaged_over_elements_and_then_over_codes():
    codes = torch.tensor([[[1.0, 1.0]], [[3.0, 1.0]]]).to(torch.bfloat16)
    assert mean_square(codes).tolist() == [1.0, 5.0]
    assert scale_of_codes(6.0, 2) == math.sqrt(3)  # the mean of the roots would be 1.62


@pytest.mark.parametrize("given", [(0.0, 0), (math.nan, 3), (math.inf, 3), (1e-9, 3), (1e9, 3)])
def test_codes_that_are_lost_have_no_scale(given):
    assert scale_of_codes(*given) is None


def test_what_is_drawn_starts_from_noise_of_that_scale(pair):
    noise = rng().normal(pair.model.latents.channels, *pair.model.sample_size)
    scaled = replace(pair, code_scale=0.4)
    assert scaled.scale_of_noise() == 0.4
    drawn = scaled.generate(PROMPTS, rng(), 4.0, 0.8)
    torch.testing.assert_close(drawn, pair.decode(0.4 * noise, PROMPTS, 4.0, 0.8))
    assert (drawn - pair.generate(PROMPTS, rng(), 4.0, 0.8)).abs().max() > 1e-3
    torch.testing.assert_close(scaled.generate(PROMPTS, rng(), 4.0, 0.8, 1.0), pair.generate(PROMPTS, rng(), 4.0, 0.8))
    batch = {"caption": PROMPTS}
    for noise_scale, expected in ((None, drawn), (1.0, pair.generate(PROMPTS, rng(), 4.0, 0.8))):
        editing = Editing(guidance_scale=4.0, guided_below=0.8, noise_scale=noise_scale)
        torch.testing.assert_close(scaled.answer(batch, rng(), editing), expected)
    with pytest.raises(ValueError, match=r"noise_scale=-1.0: must be at least 0\.01"):
        pair.generate(PROMPTS, rng(), 4.0, 0.8, -1.0)


def test_codes_of_pictures_are_decoded_and_edited_as_they_are(pair):
    scaled, images = replace(pair, code_scale=0.4), torch.linspace(-1, 1, 1536).reshape(2, 3, 16, 16)
    one, other = (each.encode(images, PROMPTS, rng())[-1] for each in (pair, scaled))
    assert torch.equal(one, other)
    assert torch.equal(pair.decode(one, PROMPTS), scaled.decode(one, PROMPTS))
    edits = (each.edit(images, PROMPTS, PROMPTS[::-1], rng(), Editing(guidance_scale=4.0)) for each in (pair, scaled))
    assert torch.equal(*edits)


def test_an_export_stores_it_and_its_readme_says_so(pair, export, tmp_path):
    told = read_json(export / "icd.json")
    assert "code_scale" not in told  # as in exports of earlier versions, which draw from N(0, I)
    assert pair.code_scale is None
    settings = told["students"]
    for scale, words in ((0.4321098, "Multiply the noise that you pass by 0.4321**"), (None, "Noise is N(0, I)")):
        measured = replace(pair, code_scale=scale)
        measured.describe(tmp_path, told["pipeline"], told["network"], settings)
        assert read_json(tmp_path / "icd.json").get("code_scale") == scale
        write_card(tmp_path, measured, settings)
        card = (tmp_path / "README.md").read_text()
        assert words in card
        assert "over 0.78, 0.52, 0.26, 0." in card
        assert "{" not in card
