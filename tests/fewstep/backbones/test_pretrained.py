"""A network that goes on from trained weights: those of its file, free to change, of the size that is asked for."""

import pytest
import torch

from fewstep.backbones import pretrained_unet
from tests.tiny_diffusion import unet, write_pipeline


@pytest.mark.parametrize("whole", [True, False])
def test_a_unet_goes_on_from_the_weights_of_its_folder(tmp_path, whole):
    original = unet(seed=3)
    source = write_pipeline(tmp_path / "pipeline", "sd", original) if whole else str(tmp_path / "unet")
    if not whole:
        original.save_pretrained(source)
    found = pretrained_unet(source, sample_size=[4, 8])
    assert found.state_dict().keys() == original.state_dict().keys()
    assert all(torch.equal(value, original.state_dict()[name]) for name, value in found.state_dict().items())
    assert all(weight.requires_grad for weight in found.parameters())
    assert found.training
    assert found.config["sample_size"] == [4, 8]
    assert pretrained_unet(source).config["sample_size"] == 8


def test_a_folder_without_a_unet_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"unet/diffusion_pytorch_model.safetensors") as caught:
        pretrained_unet(str(tmp_path))
    assert "\n" not in str(caught.value)
