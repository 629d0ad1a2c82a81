"""DDPMPipelines of pixels: the weights and the schedule of the folder, or one line."""

import json
from pathlib import Path

import pytest
import torch

from fewstep.backbones import DiffusersDenoiser
from fewstep.backbones.pipelines import save_ddpm
from fewstep.backbones.unconditional import is_unconditional, load_unconditional
from tests.tiny_diffusion import unet, write_pipeline
from tests.tiny_edit_base import pixel_unet


def change(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_folder_that_diffusers_wrote_answers_as_its_network(tmp_path, prediction):
    original = pixel_unet(3)
    save_ddpm(tmp_path, original, prediction)
    assert is_unconditional(tmp_path)
    found, parametrization = load_unconditional(tmp_path)
    assert all(torch.equal(value, original.state_dict()[name]) for name, value in found.state_dict().items())
    assert not any(weight.requires_grad for weight in found.parameters())
    assert not found.training
    assert parametrization.prediction == prediction

    from diffusers import DDPMScheduler

    alpha, _ = parametrization.schedule(torch.tensor([0.35], dtype=torch.float64))
    theirs = DDPMScheduler.from_pretrained(tmp_path, subfolder="scheduler").alphas_cumprod[349]
    assert float(alpha**2) == pytest.approx(float(theirs), rel=1e-5)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        ours = DiffusersDenoiser(found, parametrization.schedule)(x, torch.tensor([0.35, 1.0]), None, {})
        assert torch.equal(ours, original(x, torch.tensor([349, 999])).sample)


def test_half_of_a_network_that_learnt_its_variance_is_the_prediction(tmp_path):
    save_ddpm(tmp_path, pixel_unet(out_channels=6))
    found, parametrization = load_unconditional(tmp_path)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([0.02, 0.5])
    with torch.no_grad():
        whole = found(x, torch.tensor([19, 499])).sample
        assert whole.shape[1] == 6
        denoiser = DiffusersDenoiser(found, parametrization.schedule)
        assert torch.equal(denoiser(x, t, None, {}), whole[:, :3])
        of_latents = unet(out_channels=8)
        x, prompt = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)
        half = DiffusersDenoiser(of_latents, parametrization.schedule)(x, t, None, {"prompt": prompt})
        assert torch.equal(half, of_latents(x, torch.tensor([19, 499]), prompt).sample[:, :4])


def test_conditions_that_it_does_not_know_are_one_line():
    denoiser = DiffusersDenoiser(pixel_unet(), load_schedule())
    x, t = torch.randn(1, 3, 8, 8), torch.tensor([0.5])
    with pytest.raises(ValueError, match="knows no prompt: give an empty condition"):
        denoiser(x, t, None, {"prompt": torch.zeros(1, 5, 16)})
    with pytest.raises(ValueError, match="no guidance embedding"):
        denoiser(x, t, torch.ones(1), {})
    with pytest.raises(ValueError, match="no control network"):
        denoiser(x, t, None, {"control": x})
    with pytest.raises(ValueError, match="num_class_embeds"):
        DiffusersDenoiser(pixel_unet(num_class_embeds=3), load_schedule())


def load_schedule():
    from fewstep.diffusion.schedules import DiscreteSchedule

    return DiscreteSchedule("linear", 1e-4, 0.02)


def remove_weights(folder):
    Path(folder, "unet", "diffusion_pytorch_model.safetensors").unlink()


def pickle_weights(folder):
    torch.save(pixel_unet().state_dict(), Path(folder, "unet", "diffusion_pytorch_model.bin"))
    remove_weights(folder)


def spoil_weights(folder):
    from safetensors.torch import load_file, save_file

    file = Path(folder, "unet", "diffusion_pytorch_model.safetensors")
    state = load_file(file)
    del state["conv_in.bias"]
    save_file(state, file)


MISTAKES = {
    "no_index": (lambda folder: Path(folder, "model_index.json").unlink(), {}, "cannot get model_index.json"),
    "no_weights": (remove_weights, {}, "cannot get unet/diffusion_pytorch_model.safetensors"),
    "pickle": (pickle_weights, {}, "cannot get unet/diffusion_pytorch_model.safetensors"),
    "lacking": (spoil_weights, {}, r"lacks conv_in.bias \(1 entries lacking\)"),
    "no_scheduler": (
        lambda folder: Path(folder, "scheduler", "scheduler_config.json").unlink(),
        {},
        "cannot get scheduler/scheduler_config.json",
    ),
    "other_scheduler": (
        lambda folder: change(Path(folder, "scheduler", "scheduler_config.json"), prediction_type="score"),
        {},
        "prediction_type 'score' is unknown",
    ),
    "classes": (lambda folder: None, {"num_class_embeds": 4}, "is told classes"),
    "noise_levels": (lambda folder: None, {"time_embedding_type": "fourier"}, "is told noise levels"),
    "channels": (lambda folder: None, {"in_channels": 4, "out_channels": 4}, "4 channels in and 4 out"),
    "vqvae": (
        lambda folder: change(Path(folder, "model_index.json"), vqvae=["diffusers", "VQModel"]),
        {},
        "draws with its vqvae, too",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_it_cannot_read_is_one_line(tmp_path, mistake):
    spoil, config, told = MISTAKES[mistake]
    save_ddpm(tmp_path, pixel_unet(**config))
    spoil(tmp_path)
    with pytest.raises(ValueError, match=told) as caught:
        load_unconditional(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_pipeline_with_prompts_is_told_apart(tmp_path):
    folder = write_pipeline(tmp_path / "sd", "sd")
    assert not is_unconditional(folder)
    with pytest.raises(ValueError, match="draws with UNet2DConditionModel; a DDPMPipeline"):
        load_unconditional(folder)
