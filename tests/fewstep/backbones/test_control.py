"""Pictures that control a UNet: against diffusers' own pipelines, and what does not fit."""

import pytest
import torch

from fewstep.backbones import DiffusersDenoiser, diffusers_network, load_control, load_latent_diffusion
from fewstep.diffusion.guidance import DynamicGuidance
from fewstep.diffusion.schedules import DiscreteSchedule
from fewstep.diffusion.solvers import ddim, even_times
from tests.tiny_control import KINDS, controlnet, pictures, write_control
from tests.tiny_diffusion import CAPTIONS, SDXL_UNET, denoiser_inputs, denoising_network, unet, write_pipeline

SCHEDULE = DiscreteSchedule()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pipeline(tmp_path_factory.mktemp("control") / "pipeline", "sd_v")


def drawn(model, scale=2.0, controls=None):
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    plan = noise, even_times(4, 1.0, 0.0), model.condition(CAPTIONS[:2], controls), DynamicGuidance(scale)
    with torch.no_grad():
        return ddim(model.denoiser(), model.parametrization, *plan), noise


def test_a_fresh_controlnet_changes_nothing(folder, tmp_path):
    control = load_control(write_control(tmp_path, "controlnet", perturbed=False))
    model = load_latent_diffusion(folder)
    plain, _ = drawn(model)
    assert torch.equal(drawn(model.with_control(control), controls=pictures(2))[0], plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_teacher_is_the_pipeline_of_diffusers(kind, scale, folder, tmp_path):
    from diffusers import StableDiffusionAdapterPipeline, StableDiffusionControlNetPipeline, StableDiffusionPipeline

    control = load_control(write_control(tmp_path, kind))
    model = load_latent_diffusion(folder, control=control)
    ours, noise = drawn(model, scale, pictures(2))
    parts = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True).components
    parts = {name: part for name, part in parts.items() if name != "image_encoder"}
    if kind == "controlnet":
        pipeline = StableDiffusionControlNetPipeline(**parts, controlnet=control.network, requires_safety_checker=False)
    else:
        pipeline = StableDiffusionAdapterPipeline(**parts, adapter=control.network, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    shown = (pictures(2) + 1) / 2
    theirs = pipeline(
        CAPTIONS[:2], image=shown, num_inference_steps=4, guidance_scale=scale, latents=noise.clone(),
        output_type="latent", height=16, width=16,
    ).images  # fmt: skip
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
    plain, _ = drawn(load_latent_diffusion(folder), scale)
    assert (ours - plain).norm() > 1e-2 * plain.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_has_its_own_picture(kind, folder, tmp_path):
    model = load_latent_diffusion(folder, control=load_control(write_control(tmp_path, kind)))
    both, _ = drawn(model, 2.0, pictures(2))
    swapped, _ = drawn(model, 2.0, pictures(2).flip(0))
    first, _ = drawn(model, 2.0, torch.stack([pictures(2)[0], pictures(2)[0]]))
    torch.testing.assert_close(first[0], both[0], atol=1e-5, rtol=1e-4)
    assert (first[1] - swapped[1]).abs().max() < 1e-4  # the second row of `swapped` sees the first picture
    assert (both[1] - first[1]).abs().max() > 1e-3


def test_a_control_network_of_one_channel_reads_the_mean(tmp_path):
    """Of grey pictures, which sketches and edges are, it is the picture."""
    network = diffusers_network("T2IAdapter", {"in_channels": 1, "channels": [8, 16], "downscale_factor": 2})
    network.save_pretrained(tmp_path)
    control, seen = load_control(tmp_path), []
    control.network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    grey = pictures(2)[:, :1]
    x, t, condition = denoiser_inputs("unet", 2)
    model = DiffusersDenoiser(denoising_network("unet"), SCHEDULE, control)
    with torch.no_grad():
        model.network(x, t, condition | {"control": grey.expand(-1, 3, -1, -1)})
    torch.testing.assert_close(seen[0], (grey + 1) / 2)


def test_sdxl_tells_its_controlnet_of_the_size(tmp_path):
    network = denoising_network("sdxl_unet")
    control = load_control(write_control(tmp_path, "controlnet", like=network))
    x, t, condition = denoiser_inputs("sdxl_unet", 2)
    told = condition | {"control": pictures(2)}
    with torch.no_grad():
        found = DiffusersDenoiser(network, SCHEDULE, control).network(x, t, told)
        added = {"text_embeds": condition["pooled"], "time_ids": condition["time_ids"]}
        timestep = SCHEDULE.timestep(t)
        down, middle = control.network(
            x, timestep, condition["prompt"], (pictures(2) + 1) / 2, added_cond_kwargs=added, return_dict=False
        )
        expected = network(
            x, timestep, condition["prompt"], added_cond_kwargs=added, down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample  # fmt: skip
    torch.testing.assert_close(found, expected)


def test_half_precision_reads_and_answers(folder, tmp_path):
    control = load_control(write_control(tmp_path, "controlnet"), torch.bfloat16)
    model = load_latent_diffusion(folder, dtype=torch.bfloat16, control=control)
    found, _ = drawn(model, 2.0, pictures(2))
    assert found.dtype == torch.float32
    assert found.isfinite().all()


def test_what_does_not_fit_is_one_line(folder, tmp_path):
    model = load_latent_diffusion(folder)
    control = load_control(write_control(tmp_path / "net", "controlnet"))
    wide = load_control(write_control(tmp_path / "wide", "controlnet", like=unet(block_out_channels=[8, 32])))
    with pytest.raises(
        ValueError, match=r"the ControlNetModel has block_out_channels \[8, 32\], this UNet needs \[8, 16\]"
    ):
        model.with_control(wide)
    sdxl = load_control(write_control(tmp_path / "sdxl", "controlnet", like=unet(**SDXL_UNET)))
    with pytest.raises(ValueError, match="the ControlNetModel has cross_attention_dim 40, this UNet needs 16"):
        model.with_control(sdxl)
    adapter = diffusers_network("T2IAdapter", {"channels": [8, 32], "downscale_factor": 2})
    adapter.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"the T2IAdapter has channels \[8, 32\], this UNet needs \[8, 16\]"):
        model.with_control(load_control(tmp_path / "adapter"))
    coarse = diffusers_network("T2IAdapter", {"channels": [8, 16], "downscale_factor": 8})
    coarse.save_pretrained(tmp_path / "coarse")
    with pytest.raises(ValueError, match="takes 8 px of its picture for a latent, the autoencoder 2"):
        model.with_control(load_control(tmp_path / "coarse"))
    flow = load_latent_diffusion(write_pipeline(tmp_path / "sd3", "sd3_without_t5"))
    with pytest.raises(ValueError, match="a SD3Transformer2DModel takes no ControlNetModel: control is for UNets"):
        flow.with_control(control)
    controlled = model.with_control(control)
    with pytest.raises(ValueError, match="there is a control network: give its pictures"):
        controlled.condition(CAPTIONS[:2])
    with pytest.raises(ValueError, match="there is no control network: load one, or leave its pictures"):
        model.condition(CAPTIONS[:2], pictures(2))
    x, t, condition = denoiser_inputs("unet", 2)
    with pytest.raises(ValueError, match="this network has a control network: give its picture"):
        DiffusersDenoiser(model.network, SCHEDULE, control).network(x, t, condition)
    with pytest.raises(ValueError, match="this network has no control network: load one, or leave its picture"):
        DiffusersDenoiser(model.network, SCHEDULE).network(x, t, condition | {"control": pictures(2)})
    with pytest.raises(ValueError, match=r"controls have shape \[2, 3, 8, 8\], needed is \[2, 3, 16, 16\]"):
        controlled.condition(CAPTIONS[:2], torch.zeros(2, 3, 8, 8))
    pooled = controlnet(global_pool_conditions=True)
    pooled.save_pretrained(tmp_path / "pooled")
    with pytest.raises(ValueError, match="has global_pool_conditions, a guidance of its own: not supported"):
        load_control(tmp_path / "pooled")


def test_folders_without_a_control_network_are_one_line(folder, tmp_path):
    for source, told in (
        (tmp_path / "none", r"cannot get config\.json of"),
        (f"{folder}/unet", "holds a UNet2DConditionModel; supported are ControlNetModel and T2IAdapter"),
    ):
        with pytest.raises(ValueError, match=told) as caught:
            load_control(source)
        assert "\n" not in str(caught.value)
    torn = tmp_path / "torn"
    write_control(torn, "controlnet")
    (torn / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors"):
        load_control(torn)
