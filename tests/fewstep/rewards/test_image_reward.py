import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from fewstep.pixels import pixel_values
from fewstep.rewards.image_reward import ImageReward, bert_tokenizer, load_image_reward

GOLDEN = Path(__file__).parents[2] / "golden" / "image_reward_small.safetensors"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cat", "cats", "##s", "run", "##ning", ",", "!"]
WORDS += ["caf", "##e", "日", "[", "]", "enc"]
VOCABULARY = WORDS + [f"w{number}" for number in range(118 - len(WORDS))]
PROMPTS = ["a red cat", "A red CATS, running!", "café 日 zebra", "w50 [ENC] w51"]


def sizes():
    with safe_open(GOLDEN, "pt") as file:
        metadata = {name: int(value) for name, value in file.metadata().items()}
    names = {
        "text_hidden": "text_width",
        "text_intermediate": "text_mlp_width",
        "max_position_embeddings": "max_positions",
    }
    return {names.get(name, name): value for name, value in metadata.items()}


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def published(golden):
    return {name.removeprefix("state."): value for name, value in golden.items() if name.startswith("state.")}


@pytest.fixture(scope="module")
def folder(published, tmp_path_factory):
    """A download as the user has it: ImageReward.pt and vocab.txt."""
    folder = tmp_path_factory.mktemp("image_reward")
    torch.save(published, folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load_image_reward(folder, folder, **sizes())


def images(count, height=60, width=80, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


# ---- against the original code --------------------------------------------------------------------------------------


def test_parity_with_the_original(model, golden):
    ids, mask, pixels = (golden[f"in.{name}"] for name in ("input_ids", "attention_mask", "pixel_values"))
    vision = model.vision(pixels).last_hidden_state
    text = model.text(ids, attention_mask=mask, encoder_hidden_states=vision).last_hidden_state
    assert (vision - golden["out.vision_tokens"]).abs().max() <= 1e-5
    assert (text - golden["out.text_tokens"]).abs().max() <= 1e-5
    assert (model.score_tokens(pixels, ids, mask) - golden["out.reward"].squeeze(1)).abs().max() <= 1e-5


def test_published_sizes_have_the_published_number_of_weights():
    """446,665,953 parameters in 625 entries; two projections of 2 entries each and position_ids go unused."""
    with torch.device("meta"):
        state = ImageReward().state_dict()
    unused = 1024 * 256 + 256 + 768 * 256 + 256
    assert len(state) == 625 - 5
    assert sum(value.numel() for value in state.values()) == 446_665_953 - unused


def test_tokens_are_those_of_the_reference_bert_tokenizer(model, folder):
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    reference = BertTokenizerLegacy(str(folder / "vocab.txt"), do_lower_case=True)
    reference.add_special_tokens({"bos_token": "[DEC]"})
    reference.add_tokens(["[ENC]"], special_tokens=True)
    ids, mask = model.tokenize(PROMPTS)
    assert ids.shape == mask.shape == (4, 35)
    for prompt, row, seen in zip(PROMPTS, ids.tolist(), mask.tolist(), strict=True):
        expected = [2, *reference.convert_tokens_to_ids(reference.tokenize(prompt)), 3]  # [CLS] ... [SEP]
        assert row == expected + [0] * (35 - len(expected))
        assert seen == [1] * len(expected) + [0] * (35 - len(expected))
    assert 119 in ids[3]  # [ENC] is one token, the last of the vocabulary


WEIGHTS = os.environ.get("FEWSTEP_IMAGE_REWARD", "")


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS, reason="FEWSTEP_IMAGE_REWARD names no folder with ImageReward.pt, vocab.txt, 1-4.webp")
def test_published_weights_give_the_published_scores():
    """The example of the ImageReward README; its four pictures are assets/images/1.webp ... 4.webp there."""
    import numpy as np
    from PIL import Image

    scorer = load_image_reward(WEIGHTS, WEIGHTS)
    prompt = "a painting of an ocean with clouds and birds, day time, low depth field effect"
    pictures = [Image.open(Path(WEIGHTS) / f"{number}.webp").convert("RGB") for number in range(1, 5)]
    floats = [torch.from_numpy(np.array(p)).permute(2, 0, 1)[None] / 127.5 - 1 for p in pictures]
    scores = [scorer(picture, [prompt]).item() for picture in floats]
    assert scores == pytest.approx([0.5812, 0.2745, -1.4132, -2.0296], abs=0.02)


# ---- from pictures and prompts to scores ----------------------------------------------------------------------------


def test_score_of_a_picture_does_not_depend_on_its_batch(model):
    batch = images(4)
    together = model(batch, PROMPTS)
    singly = torch.cat([model(batch[i : i + 1], [PROMPTS[i]]) for i in range(4)])
    assert together.shape == (4,)
    assert (together - singly).abs().max() < 2e-6
    assert together.std() > 0.01  # pictures and prompts matter
    assert (model(batch.flip(0), PROMPTS[::-1]).flip(0) - together).abs().max() < 2e-6


def test_long_prompts_are_cut_before_the_end_token_and_counted(model):
    words = ["a", "red", "cat", "w20", "w21", "w22", "w23", "w24", "w25", "w26", "w27"] * 3
    seen, cut = model.cut_prompts.seen, model.cut_prompts.cut
    whole, _ = model.tokenize([" ".join(words)])  # 33 words fit
    assert model.cut_prompts.cut == cut
    with pytest.warns(UserWarning, match="ImageReward reads 35 tokens of a prompt: 1 of"):
        longer, _ = model.tokenize([" ".join([*words, "w60"])])
    assert torch.equal(longer, whole)
    assert (model.cut_prompts.seen, model.cut_prompts.cut) == (seen + 2, cut + 1)


def test_gradient_reaches_the_pixels(folder):
    scorer = load_image_reward(folder, folder, differentiable=True, **sizes()).double()
    batch = images(1).double().requires_grad_()
    direction = images(1, seed=1).double()
    scorer.preprocessing = scorer.preprocessing._replace(size=48)
    (gradient,) = torch.autograd.grad(double_score(scorer, batch), batch)
    step = 1e-3
    with torch.no_grad():
        slope = (double_score(scorer, batch + step * direction) - double_score(scorer, batch - step * direction)) / (
            2 * step
        )
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=0.02)
    assert all(p.grad is None and not p.requires_grad for p in scorer.parameters())


def double_score(scorer, batch):
    pixels = pixel_values(batch, scorer.preprocessing, differentiable=True).double()
    return scorer.score_tokens(pixels, *scorer.tokenize(["a red cat"])).sum()


def test_float_path_scores_nearly_the_same(model):
    batch = images(4)
    exact = model(batch, PROMPTS)
    with pytest.raises(ValueError, match="differentiable=True"):
        model(batch.clone().requires_grad_(), PROMPTS)
    model.differentiable = True
    try:
        scores = model(batch.clone().requires_grad_(), PROMPTS)
    finally:
        model.differentiable = False
    assert scores.requires_grad
    assert (scores.detach() - exact).abs().max() < 0.05 * exact.std()


def test_autocast_does_not_touch_the_score(model):
    batch = images(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = model(batch, PROMPTS[:2])
    assert inside.dtype == torch.float32
    assert torch.equal(inside, model(batch, PROMPTS[:2]))


def test_loaded_network_is_frozen_and_in_eval_mode(model):
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert isinstance(model, nn.Module)


# ---- files ----------------------------------------------------------------------------------------------------------


def test_safetensors_and_half_precision_files_load(published, folder, tmp_path, golden, model):
    save_file(
        {name: value.half() if value.is_floating_point() else value for name, value in published.items()},
        tmp_path / "w.safetensors",
    )
    half = load_image_reward(tmp_path / "w.safetensors", folder, **sizes())
    ids, mask, pixels = (golden[f"in.{name}"] for name in ("input_ids", "attention_mask", "pixel_values"))
    assert half.head[0].weight.dtype == torch.float32
    assert (half.score_tokens(pixels, ids, mask) - golden["out.reward"].squeeze(1)).abs().max() < 0.02


def without(name):
    return lambda state: state.pop(name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("mlp.layers.4.bias"), r"it lacks head.4.bias \(1 entries lacking, 0 unknown\)"),
        (lambda s: s.update({"blip.other": torch.zeros(1)}), "holds blip.other, which ImageReward does not have"),
        (lambda s: s.update({"blip.text_encoder.pooler.bias": torch.zeros(1)}), "has an unknown text.pooler.bias"),
        (lambda s: s.update({"blip.visual_encoder.pos_embed": torch.zeros(1, 5, 64)}), r"shape \[1, 5, 64\], needed"),
        (lambda s: s.update({"mlp.layers.7.bias": "x"}), "not a flat state dict"),
        (lambda s: s.update({"mlp.layers.7.bias": Path("x")}), "cannot read weights from"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_entirely_are_refused(published, folder, tmp_path, damage, message):
    state = dict(published)
    damage(state)
    torch.save(state, tmp_path / "ImageReward.pt")
    with pytest.raises(ValueError, match=message) as caught:
        load_image_reward(tmp_path, folder, **sizes())
    assert "\n" not in str(caught.value)


def test_position_ids_may_be_missing(published, folder, tmp_path):
    """Whether they are in the file depends on the transformers release that wrote it."""
    state = dict(published)
    del state["blip.text_encoder.embeddings.position_ids"]
    torch.save(state, tmp_path / "ImageReward.pt")
    assert load_image_reward(tmp_path, folder, **sizes()).text.embeddings.position_ids.tolist() == [list(range(64))]


def test_missing_files_are_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cases = [
        (tmp_path / "none.pt", folder, "no file .*none.pt; give the path of ImageReward.pt, its folder, or a hub id"),
        (tmp_path, folder, "holds no ImageReward.pt"),
        (
            "no-such-owner/weights",
            folder,
            "without a network, download .*no-such-owner/weights/resolve/main/ImageReward.pt",
        ),
        (folder, tmp_path, "holds no vocab.txt"),
        (folder, "no-such-owner/words", "no-such-owner/words/resolve/main/vocab.txt elsewhere"),
    ]
    for source, words, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            load_image_reward(source, words, **sizes())
        assert "\n" not in str(caught.value)


def test_vocabulary_of_another_model_is_refused(folder, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY[:-1]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"the tokenizer has 119 entries .*, needed are 120"):
        load_image_reward(folder, tmp_path, **sizes())


def test_vocabulary_lines_end_at_newlines_only(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCABULARY[:5], "\u2028", "x"]), encoding="utf-8")
    assert bert_tokenizer(tmp_path).convert_tokens_to_ids("x") == 6


def test_without_a_tokenizer_only_tokens_can_be_scored():
    with torch.device("meta"):
        scorer = ImageReward(**sizes())
    with pytest.raises(ValueError, match="has no tokenizer"):
        scorer.tokenize(["a"])
