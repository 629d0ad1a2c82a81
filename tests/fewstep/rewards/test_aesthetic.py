import json

import open_clip
import pytest
import torch
from torch import nn

from fewstep.rewards.aesthetic import AestheticScore, WeightedSum, load_aesthetic, load_clip, score_head

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PROMPTS = ["a red cat", "two dogs"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The name of a small CLIP that open_clip loads from a folder."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    torch.manual_seed(0)
    torch.save(open_clip.CLIP(**TINY).state_dict(), folder / "open_clip_pytorch_model.bin")
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def clip(tiny):
    return load_clip(tiny, None)


@pytest.fixture
def images():
    return torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_aesthetic_heads_read_the_unit_embedding(tiny, clip, images, tmp_path):
    embeddings = nn.functional.normalize(clip.embed_images(images))
    deep, flat = score_head(16), nn.Linear(16, 1)
    nn.init.normal_(deep[7].bias)
    torch.save({f"layers.{name}": value for name, value in deep.state_dict().items()}, tmp_path / "deep.pth")
    torch.save(flat.state_dict(), tmp_path / "flat.pth")
    for file, head in (("deep.pth", deep.eval()), ("flat.pth", flat)):
        reward = load_aesthetic(tmp_path / file, tiny, None)
        assert reward(images, PROMPTS) == pytest.approx(head(embeddings).squeeze(1).detach(), abs=1e-6)
        assert isinstance(reward, AestheticScore)
    torch.save({"layers.0.weight": torch.zeros(1024, 16)}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"it lacks 0.bias \(9 entries lacking"):
        load_aesthetic(tmp_path / "part.pth", tiny, None)


def test_head_of_another_clip_is_refused(tiny, tmp_path):
    torch.save(nn.Linear(24, 1).state_dict(), tmp_path / "head.pth")
    with pytest.raises(ValueError, match=r"weight has shape \[1, 24\], needed is \[1, 16\]; is it another model's"):
        load_aesthetic(tmp_path / "head.pth", tiny, None)


def brightness(images, prompts):
    return images.mean(dim=(1, 2, 3)) + torch.tensor([float(len(prompt)) for prompt in prompts])


def test_weighted_sum(clip, images):
    both = WeightedSum([brightness, clip], [0.5, -2])
    assert torch.allclose(both(images, PROMPTS), 0.5 * brightness(images, PROMPTS) - 2 * clip(images, PROMPTS))
    assert set(map(id, both.parameters())) == set(map(id, clip.parameters()))  # so that .to(device) reaches them


def test_weighted_sum_passes_gradients():
    images = torch.zeros(2, 3, 4, 4, requires_grad=True)
    WeightedSum([brightness, brightness], [1.0, 2.0])(images, PROMPTS).sum().backward()
    assert torch.allclose(images.grad, torch.full_like(images, 3 / 48))


@pytest.mark.parametrize(
    ("rewards", "weights", "message"),
    [
        ([brightness], [1.0, 2.0], "1 rewards with 2 weights"),
        ([], [], "0 rewards with 0 weights"),
        ([brightness], [float("nan")], "weights of rewards must be finite, got"),
    ],
)
def test_sums_that_make_no_sense_are_refused(rewards, weights, message):
    with pytest.raises(ValueError, match=message):
        WeightedSum(rewards, weights)


def test_reward_that_returns_a_mean_is_refused():
    with pytest.raises(ValueError, match=r"a reward returned shape \[\] for 2 images, needed is \[B\]"):
        WeightedSum([lambda images, prompts: images.mean()], [1.0])(torch.zeros(2, 3, 4, 4), PROMPTS)


def test_both_check_their_input(clip, images):
    for reward in (AestheticScore(clip, nn.Linear(16, 1)), WeightedSum([brightness], [1.0])):
        with pytest.raises(ValueError, match="2 images need as many prompts, got 1"):
            reward(images, ["one"])
        with pytest.raises(ValueError, match="images must lie in"):
            reward(images + 2, PROMPTS)
