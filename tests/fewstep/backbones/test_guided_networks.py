"""Networks with a guidance embedding in files: they come back whole, and what is not one is refused."""

import os

import pytest
import torch

from fewstep.backbones import add_guidance_embedding, load_guided_network, load_latent_diffusion, save_guided_network
from tests.tiny_diffusion import (
    NETWORKS,
    denoiser,
    denoiser_inputs,
    denoising_network,
    perturbed,
    unet,
    write_pipeline,
)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_networks_and_their_scales_come_back(kind, dtype, tmp_path):
    model = perturbed(denoising_network(kind), kind, dim=48)
    save_guided_network(tmp_path / "net", model, [1, 4, 8.5], dtype)
    loaded, scales = load_guided_network(tmp_path / "net")
    assert scales == (1.0, 4.0, 8.5)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.to(dtype).float()), name
    assert {value.dtype for value in load_guided_network(tmp_path / "net", dtype=dtype)[0].parameters()} == {dtype}
    (tmp_path / "net" / "guidance.json").unlink()
    assert load_guided_network(tmp_path / "net")[1] is None


def test_a_transformer_in_several_files_comes_back(tmp_path):
    model = perturbed(denoising_network("sd3"), "sd3", dim=48)
    model.save_pretrained(tmp_path / "net", max_shard_size="20KB")
    assert len(list((tmp_path / "net").glob("*.safetensors"))) > 1
    loaded, _ = load_guided_network(tmp_path / "net")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"schema": 2, "guidance_scales": [1]}', '{"schema": 1, "guidance_scales": ["8"]}',
     '{"schema": 1, "guidance_scales": []}', '{"schema": 1, "guidance_scales": [NaN]}'],
)  # fmt: skip
def test_scales_that_cannot_be_read_are_one_line(content, tmp_path):
    save_guided_network(tmp_path / "net", add_guidance_embedding(unet(), 16), [1, 8])
    (tmp_path / "net" / "guidance.json").write_text(content)
    with pytest.raises(ValueError, match=r"guidance\.json") as caught:
        load_guided_network(tmp_path / "net")
    assert "\n" not in str(caught.value)


def test_the_authors_state_dict_is_read_with_the_pipelines_config(tmp_path):
    model = perturbed(unet(), "unet", dim=32)
    file = tmp_path / "sd15_cfg_distill.pt"
    torch.save(model.state_dict(), file)
    loaded, scales = load_guided_network(file, config=dict(unet().config))
    assert scales is None
    x, t, condition = denoiser_inputs("unet")
    with torch.no_grad():
        for scale in (torch.ones(3), torch.full((3,), 8.0)):
            expected = denoiser(model.eval(), "unet")(x, t, scale, condition)
            assert torch.equal(denoiser(loaded, "unet")(x, t, scale, condition), expected)
    folder = write_pipeline(tmp_path / "sd", "sd")
    taken = load_latent_diffusion(folder, file, dtype=torch.bfloat16).network
    assert torch.equal(taken.conv_in.weight, model.conv_in.weight.bfloat16())
    with pytest.raises(ValueError, match="holds weights alone: give the config"):
        load_guided_network(file)
    with pytest.raises(ValueError, match="does not fit this architecture"):
        load_guided_network(file, config={**unet(cross_attention_dim=8).config})
    torch.save(unet().state_dict(), file)
    with pytest.raises(ValueError, match="has no guidance embedding; distil"):
        load_guided_network(file, config=dict(unet().config))


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_a_hostile_file_does_not_run(tmp_path):
    file = tmp_path / "sd15_cfg_distill.pt"
    torch.save({"time_embedding.cond_proj.weight": Hostile(str(tmp_path / "ran"))}, file)
    with pytest.raises(ValueError, match="cannot read weights from") as caught:
        load_guided_network(file, config=dict(unet().config))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    torch.load(file, weights_only=False)  # it would have
    assert (tmp_path / "ran").exists()
