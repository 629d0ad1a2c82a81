"""Structure distance: against keys taken out of transformers' model by hand, and torchvision's resize."""

import pytest
import torch
from torch.nn import functional as F

from fewstep.metrics.structure import OFFICIAL, StructureDistance
from tests.tiny_vit import write_vit


def pictures(seed, num=3, height=48, width=48):
    return torch.randint(0, 256, (num, 3, height, width), generator=torch.Generator().manual_seed(seed)).byte()


def by_hand(model, images, size):
    """Cosines of the keys [T, T] of one picture, head by head laid side by side."""
    from torchvision.transforms import Compose, Normalize, Resize

    prepare = Compose([Resize(size, max_size=480), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
    pixels = prepare(images[None] / 255)
    last = model.layers[-1] if hasattr(model, "layers") else model.encoder.layer[-1]
    with torch.no_grad():
        states = model(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[-2]
        weights = last.attention.k_proj
        keys = F.linear(last.layernorm_before(states), weights.weight, weights.bias)[0]
    heads = keys.view(len(keys), 3, 8)
    product = torch.einsum("ihd,jhd->ij", heads, heads)
    norm = heads.square().sum((1, 2)).sqrt()
    return product / (norm[:, None] * norm[None])


@pytest.mark.parametrize(("height", "width", "size"), [(48, 48, 32), (32, 32, 32), (32, 48, 64)])
def test_it_is_that_of_the_keys_of_the_last_layer(height, width, size, tmp_path):
    model = write_vit(tmp_path)
    a, b = pictures(0, height=height, width=width), pictures(1, height=height, width=width)
    found = StructureDistance(str(tmp_path), size)(a, b)
    expected = [F.mse_loss(by_hand(model, x, size), by_hand(model, y, size)) for x, y in zip(a, b, strict=True)]
    assert found.min() > 1e-3
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-5)


def test_equal_pictures_are_at_0_and_layout_counts_more_than_brightness(tmp_path):
    write_vit(tmp_path)
    measure, a = StructureDistance(str(tmp_path), 32), pictures(2)
    assert torch.equal(measure(a, a), torch.zeros(3))
    assert measure(a, a).shape == (3,)
    stand_in = StructureDistance("mobilenet", 64)
    left = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    left[..., :24, :24] = 200
    darker = (left.float() * 0.9).byte()
    assert stand_in(left, left.flip(3)).item() > 10 * stand_in(left, darker).item() > 0
    assert stand_in.name == "structure_mobilenet"


def test_the_stand_in_is_that_of_the_places_of_mobilenet():
    from fewstep.metrics.features import MobileNetV2

    a, b = pictures(3, 2, 64, 64), pictures(4, 2, 64, 64)
    network, similar = MobileNetV2(size=64), []
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for side in (a, b):
        with torch.no_grad():
            places = network.features((side / 255 - mean) / std).flatten(2)
        similar.append(F.cosine_similarity(places[:, :, :, None], places[:, :, None, :], dim=1, eps=1e-12))
    expected = (similar[0] - similar[1]).square().mean((1, 2))
    torch.testing.assert_close(StructureDistance("mobilenet", 64)(a, b), expected, rtol=0, atol=1e-5)


def test_only_dinos_own_has_the_plain_name(tmp_path):
    write_vit(tmp_path / "dino-vits16")
    assert StructureDistance(str(tmp_path / "dino-vits16")).name == "structure_dino_vits16"
    write_vit(tmp_path / OFFICIAL)
    assert StructureDistance(str(tmp_path / OFFICIAL)).name == "structure_distance"


def test_what_cannot_be_compared_is_one_line(tmp_path):
    write_vit(tmp_path)
    measure = StructureDistance(str(tmp_path), 32)
    with pytest.raises(ValueError, match="two pictures of one size, got"):
        measure(pictures(0), pictures(0, 2))
    with pytest.raises(ValueError, match="uint8 images"):
        measure(pictures(0).float(), pictures(0).float())
    with pytest.raises(ValueError, match=r"cannot get model.safetensors of \S+nowhere"):
        StructureDistance(str(tmp_path / "nowhere"))
