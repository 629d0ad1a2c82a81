"""One model without conditions, whatever the folder holds: pixels, or latents under the empty prompt."""

from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch

from fewstep.backbones import DiffusersDenoiser, load_latent_diffusion
from fewstep.backbones.pipelines import save_ddpm
from fewstep.diffusion.guidance import ClassifierFree
from fewstep.diffusion.schedules import DiscreteSchedule
from fewstep.fast_edit.edit_base import base_of_latents, load_base
from fewstep.fast_edit.tuned import TunedAdapters
from tests.tiny_diffusion import CAPTIONS, KINDS, denoising_network, perturbed, write_pipeline
from tests.tiny_edit_base import COSINE, SCHEDULE, base, pictures, pixel_unet


@pytest.fixture(scope="module")
def of_pixels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddpm")
    save_ddpm(folder, pixel_unet(3), "v")
    return folder


def test_pixels_are_their_own_states(of_pixels):
    base = load_base(of_pixels)
    images = pictures(height=8, width=12)
    assert base.encode(images) is images
    assert base.decode(images) is images
    assert (base.sample_size, base.factor, base.parametrization.prediction) == ((8, 8), 2, "v")
    with torch.no_grad():
        answer = base.predict(images, torch.tensor([0.1, 0.7]))
        assert torch.equal(answer, pixel_unet(3)(images, torch.tensor([99, 699])).sample)


def test_the_hash_is_of_the_weights_as_loaded(of_pixels, tmp_path):
    base, again = load_base(of_pixels), load_base(of_pixels)
    TunedAdapters(base)
    assert base.weights_sha256 == again.weights_sha256
    save_ddpm(tmp_path, pixel_unet(4), "v")
    assert load_base(tmp_path).weights_sha256 != base.weights_sha256


def test_a_base_of_pixels_is_known_by_its_schedule_and_prediction_too():
    other = DiscreteSchedule("linear", 1e-4, 0.021)
    bases = [base(), base(prediction="v"), base(schedule=COSINE), base(schedule=other), base(seed=1)]
    assert len({each.sha256 for each in bases}) == 5
    again = base(schedule=DiscreteSchedule(betas=SCHEDULE.betas()))
    assert again.sha256 == base().sha256


def test_a_base_of_latents_is_known_by_its_autoencoder_and_text_encoder_too(tmp_path):
    folder = write_pipeline(tmp_path / "pipeline", "sd")
    known, model = load_base(folder), load_latent_diffusion(folder)
    seen = [known.sha256]
    assert base_of_latents(model).sha256 == known.sha256
    for network in (model.latents.autoencoder, model.prompts.networks["text_encoder"]):
        next(network.parameters()).data.view(-1)[0] += 0.1
        assert base_of_latents(model).weights_sha256 == known.weights_sha256
        seen.append(base_of_latents(model).sha256)
    model.latents.scale *= 2
    seen.append(base_of_latents(model).sha256)
    nothing = {name: torch.zeros_like(row) for name, row in known.condition.items()}
    seen.append(replace(known, condition=nothing).sha256)
    assert len(set(seen)) == 5


def test_the_weights_are_hashed_once(monkeypatch):
    found, twice = base(), Mock()
    monkeypatch.setattr("fewstep.backbones.adapters.weights_sha256", twice)
    assert TunedAdapters(found).adapters.base_sha256 == found.weights_sha256
    twice.assert_not_called()


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_asked_with_the_empty_prompt_unguided(kind, tmp_path):
    folder = write_pipeline(tmp_path / "pipeline", kind)
    base, model = load_base(folder), load_latent_diffusion(folder)
    assert base.sample_size == model.image_size == (16, 16)
    x, t = torch.randn(2, base.latents.channels, 8, 8), torch.tensor([0.3, 0.8])
    null = model.prompts.null_condition()
    network = DiffusersDenoiser(model.network, model.parametrization.schedule).network
    with torch.no_grad():
        # Guided by 0, a classifier-free denoiser says what it says without its prompt.
        expected = ClassifierFree(network, null)(x, t, torch.zeros(2), model.prompts(CAPTIONS[:2]))
        torch.testing.assert_close(base.predict(x, t), expected, rtol=1e-4, atol=1e-5)


def test_a_network_with_guidance_embedding_is_asked_unguided(tmp_path):
    network = perturbed(denoising_network("unet"), "unet")
    base = load_base(write_pipeline(tmp_path / "pipeline", "sd", network))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.8])
    told = {"prompt": base.condition["prompt"].expand(2, -1, -1)}
    denoiser = DiffusersDenoiser(network.eval(), base.parametrization.schedule)
    with torch.no_grad():
        torch.testing.assert_close(base.predict(x, t), denoiser(x, t, torch.ones(2), told), rtol=1e-4, atol=1e-5)
        assert (base.predict(x, t) - denoiser(x, t, torch.full((2,), 8.0), told)).abs().max() > 1e-3


def test_decoding_latents_is_differentiable_and_does_not_clamp(tmp_path):
    base = load_base(write_pipeline(tmp_path / "pipeline", "sd"))
    state = (base.encode(pictures(height=16, width=24)) * 4).double().float().requires_grad_(True)
    assert state.shape == (2, 4, 8, 12)
    weight = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((base.decode(state) * weight).sum(), state)
    step = torch.randn(state.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ends = [((base.decode(state + sign * 1e-2 * step)) * weight).sum() for sign in (1, -1)]
        assert float((ends[0] - ends[1]) / 2e-2) == pytest.approx(float((gradient * step).sum()), rel=0.02, abs=0.02)
        assert base.decode(state * 1000).abs().max() > 1
    assert not any(weight.requires_grad for weight in base.latents.autoencoder.parameters())


def test_pictures_that_do_not_fit_are_one_line(of_pixels, tmp_path):
    base = load_base(of_pixels)
    with pytest.raises(ValueError, match=r"pictures of 8 x 9 pixels .* multiples of 2; crop or resize"):
        base.encode(pictures(width=9))
    with pytest.raises(ValueError, match=r"shape \[2, 1, 8, 8\]"):
        base.encode(pictures()[:, :1])
    with pytest.raises(ValueError, match=r"torch.uint8"):
        base.encode(pictures().to(torch.uint8))
    latent = load_base(write_pipeline(tmp_path / "sd", "sd"))
    with pytest.raises(ValueError, match=r"16 x 18 .* multiples of 4"):
        latent.encode(pictures(height=16, width=18))
    transformer = load_base(write_pipeline(tmp_path / "sd3", "sd3_without_t5"))
    with pytest.raises(ValueError, match=r"multiples of 4 up to 32"):
        transformer.encode(pictures(height=16, width=36))
    with pytest.raises(ValueError, match=r"cannot get model_index.json") as caught:
        load_base(tmp_path / "nothing")
    assert "\n" not in str(caught.value)
