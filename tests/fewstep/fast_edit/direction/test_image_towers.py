"""A CLIP with another image tower sees as that one and reads as before."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fewstep.contrastive.network import CLIPNetwork
from fewstep.fast_edit.direction.clips import load_edit_clip
from tests.tiny_edit_base import pictures


def network(seed, width=16):
    torch.manual_seed(seed)
    vision = {"image_size": 16, "layers": 1, "width": width, "head_width": 8, "patch_size": 8}
    clip = CLIPNetwork(8, vision, {"context_length": 16, "width": 16, "heads": 2, "layers": 1}).eval()
    for weight in clip.clip.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.3)
    return clip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """(folder of a CLIP, of another one, whose image tower lies beside it in two kinds of file)."""
    folder = tmp_path_factory.mktemp("towers")
    for seed, name in enumerate(("one", "other")):
        network(seed).export(folder / name, torch.float32)
    whole = network(1).clip.state_dict()
    alone = {name.removeprefix("visual."): weight for name, weight in whole.items() if name.startswith("visual.")}
    save_file(alone, folder / "robust.safetensors")
    torch.save(whole, folder / "whole.pt")
    return folder


@pytest.mark.parametrize("file", ["robust.safetensors", "whole.pt"])
def test_it_sees_as_the_tower_and_reads_as_the_clip(places, file):
    one, other = load_edit_clip(places / "one"), load_edit_clip(places / "other")
    found = load_edit_clip(f"{places / 'one'}+{places / file}")
    seen, texts = pictures(3, 16, 16), ["a face", "a face with glasses"]
    assert torch.equal(found.embed_images(seen), other.embed_images(seen))
    assert torch.equal(found.embed_prompts(texts), one.embed_prompts(texts))
    assert not torch.allclose(found.embed_images(seen), one.embed_images(seen), atol=0.1)
    assert not any(weight.requires_grad for weight in found.parameters())
    pixels = seen.clone().requires_grad_()
    found.embed_images(pixels)[:, 0].sum().backward()
    assert pixels.grad.abs().amax() > 0


def test_a_folder_whose_name_has_a_plus_is_that_folder(places, tmp_path):
    network(1).export(tmp_path / "a+b", torch.float32)
    seen = pictures(2, 16, 16)
    other = load_edit_clip(places / "other")
    assert torch.equal(load_edit_clip(tmp_path / "a+b").embed_images(seen), other.embed_images(seen))


def test_a_tower_that_does_not_fit_is_one_line(places, tmp_path):
    save_file(network(1, width=24).clip.visual.state_dict(), tmp_path / "wide.safetensors")
    save_file({"classifier.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    for file, told in (
        ("wide.safetensors", "does not fit this architecture"),
        ("other.safetensors", "has|lacks"),
        ("nowhere.pt", "belongs the weights file of an image tower"),
    ):
        with pytest.raises(ValueError, match=told) as caught:
            load_edit_clip(f"{places / 'one'}+{tmp_path / file}")
        assert "\n" not in str(caught.value)
