"""Networks of diffusers as denoisers, and guidance embeddings: silent until trained, then what plain pipelines feed."""

import copy
import json

import pytest
import torch

from fewstep.backbones import (
    DiffusersDenoiser,
    add_guidance_embedding,
    diffusers_network,
    has_guidance_embedding,
    load_guided_network,
    load_latent_diffusion,
    save_guided_network,
)
from fewstep.diffusion.guidance import DynamicGuidance, GuidanceEmbedding
from fewstep.diffusion.schedules import DiscreteSchedule
from fewstep.diffusion.solvers import ddim, even_times
from tests.tiny_diffusion import (
    CAPTIONS,
    NETWORKS,
    denoiser,
    denoiser_inputs,
    denoising_network,
    perturbed,
    write_pipeline,
)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_guidance_embedding_changes_no_bit_for_any_scale(kind, dtype):
    model = denoising_network(kind).to(dtype)
    x, t, condition = denoiser_inputs(kind)
    names = set(model.state_dict())
    with torch.no_grad():
        before = denoiser(model, kind)(x, t, None, condition)
        guided = add_guidance_embedding(copy.deepcopy(model))
        assert has_guidance_embedding(guided)
        assert not has_guidance_embedding(model)
        for scale in (1.0, 7.5, 20.0):
            assert torch.equal(denoiser(guided, kind)(x, t, torch.full((3,), scale), condition), before)
    assert before.dtype == torch.float32
    (added,) = set(guided.state_dict()) - names
    assert [n for n, p in guided.named_parameters() if not p.any() and n == added] == [added]


@pytest.mark.parametrize("kind", NETWORKS)
def test_scales_are_per_sample_and_rows_do_not_mix(kind):
    model = perturbed(denoising_network(kind), kind)
    x, t, condition = denoiser_inputs(kind)
    scales = torch.tensor([1.0, 4.0, 8.0])
    with torch.no_grad():
        whole = denoiser(model, kind)(x, t, scales, condition)
        for row in range(3):
            one = {name: value[row : row + 1] for name, value in condition.items()}
            alone = denoiser(model, kind)(x[row : row + 1], t[row : row + 1], scales[row : row + 1], one)
            torch.testing.assert_close(alone, whole[row : row + 1], rtol=1e-4, atol=1e-5)
        assert (denoiser(model, kind)(x, t, scales + 1, condition) - whole).abs().max() > 1e-3


def test_w_enters_sd3_beside_time_and_pooled_prompt():
    """The same shift of its conditioning vector, given to the plain transformer through a hook."""
    guided, plain = perturbed(denoising_network("sd3"), "sd3"), denoising_network("sd3")
    x, t, condition = denoiser_inputs("sd3")
    scales = torch.tensor([1.0, 4.0, 8.0])
    embedding = GuidanceEmbedding(32)
    embedding.projection.weight.data = guided.time_text_embed.guidance.projection.weight.data
    handle = plain.time_text_embed.register_forward_hook(lambda module, given, answer: answer + embedding(scales))
    with torch.no_grad():
        expected = denoiser(plain, "sd3")(x, t, None, condition)
        torch.testing.assert_close(denoiser(guided, "sd3")(x, t, scales, condition), expected, rtol=1e-4, atol=1e-5)
        handle.remove()
        assert (denoiser(plain, "sd3")(x, t, None, condition) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_trained_embedding_draws_what_the_plain_pipeline_draws(kind, tmp_path):
    from diffusers import DiffusionPipeline

    name = "unet" if kind == "sd" else "sdxl_unet"
    folder = write_pipeline(tmp_path / "pipeline", kind, perturbed(denoising_network(name), name))
    pipeline, model = DiffusionPipeline.from_pretrained(folder), load_latent_diffusion(folder)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.unet.config.time_cond_proj_dim == 512
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    answers = []
    for scale in (1.0, 8.0):
        options = {"num_inference_steps": 4, "guidance_scale": scale, "output_type": "latent"}
        theirs = pipeline(CAPTIONS[:2], latents=noise.clone(), **options).images
        plan = (noise, even_times(4, 1.0, 0.0), model.prompts(CAPTIONS[:2]), DynamicGuidance(scale))
        with torch.no_grad():
            answers.append(ddim(model.denoiser(), model.parametrization, *plan))
        assert (answers[-1] - theirs).norm() < 1e-3 * theirs.norm()
    assert (answers[0] - answers[1]).norm() > 1e-2 * answers[1].norm()


@pytest.mark.parametrize("kind", NETWORKS)
def test_mistakes_are_one_line(kind, tmp_path):
    model = denoising_network(kind)
    x, t, condition = denoiser_inputs(kind)
    with pytest.raises(ValueError, match="no guidance embedding: distil"):
        denoiser(model, kind)(x, t, torch.ones(3), condition)
    with pytest.raises(ValueError, match="add one first"):
        save_guided_network(tmp_path / "net", model, [1])
    model.save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="has no guidance embedding; distil"):
        load_guided_network(tmp_path / "plain")
    add_guidance_embedding(model)
    with pytest.raises(ValueError, match="give guidance_scale"):
        denoiser(model, kind)(x, t, None, condition)
    with pytest.raises(ValueError, match="already"):
        add_guidance_embedding(model)
    with pytest.raises(ValueError, match="guidance_scales"):
        save_guided_network(tmp_path / "net", model, [])
    assert not (tmp_path / "net").exists()


def test_other_networks_are_refused(tmp_path):
    other = diffusers_network("UNet2DModel", {"sample_size": 8, "block_out_channels": [32], "norm_num_groups": 8,
        "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]})  # fmt: skip
    with pytest.raises(ValueError, match="a UNet1DModel cannot denoise here"):
        DiffusersDenoiser(diffusers_network("UNet1DModel", {"block_out_channels": [32, 32, 64]}), DiscreteSchedule())
    with pytest.raises(ValueError, match="knows no prompts"):
        add_guidance_embedding(other)
    other.save_pretrained(tmp_path / "net")
    with pytest.raises(ValueError, match="holds a UNet2DModel; supported"):
        load_guided_network(tmp_path / "net")
    with pytest.raises(ValueError, match=r"cannot get unet/config\.json of"):
        load_guided_network(tmp_path / "nothing")
    assert json.loads((tmp_path / "net" / "config.json").read_text())["_class_name"] == "UNet2DModel"


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_reach_the_new_weights_alone(kind):
    model = add_guidance_embedding(denoising_network(kind).requires_grad_(False))
    x, t, condition = denoiser_inputs(kind)
    denoiser(model, kind)(x, t, torch.tensor([1.0, 4.0, 8.0]), condition).square().mean().backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(moved) == 1
    assert model.get_parameter(moved.pop()).grad.abs().max() > 0
