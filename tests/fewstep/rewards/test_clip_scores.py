import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fewstep.rewards.clip_scores import load_clip, load_hpsv2, load_pickscore

CONTEXT = 8
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
PROMPTS = ["a red cat", "two dogs &amp; a café"]
LONG = "one two three four five six seven eight nine ten"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small CLIP of open_clip's classes, as a folder, as a named architecture, and as HPSv2's checkpoint."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch.manual_seed(0)
    state = open_clip.create_model("tiny-clip").state_dict()
    torch.save(state, folder / "tiny-clip.pt")
    torch.save({"epoch": 3, "state_dict": state}, folder / "HPS_v2.1_compressed.pt")
    local = folder / "local"
    local.mkdir()
    mean_std = {"mean": [0.5, 0.5, 0.5], "std": [0.4, 0.5, 0.6], "resize_mode": "squash"}
    (local / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": mean_std}))
    torch.save(state, local / "open_clip_pytorch_model.bin")
    yield folder
    open_clip.factory._MODEL_CONFIG_PATHS.remove(folder / "tiny-clip.json")
    open_clip.factory._MODEL_CONFIGS.pop("tiny-clip")


@pytest.fixture(scope="module")
def clip(folder):
    return load_clip("tiny-clip", str(folder / "tiny-clip.pt"))


def pictures(height=40, width=70, count=2):
    values = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return [Image.fromarray(v) for v in values], torch.from_numpy(values).permute(0, 3, 1, 2) / 127.5 - 1


def cosines(network, transform, images, prompts):
    """open_clip's own use of its classes, one picture at a time."""
    tokenizer = open_clip.get_tokenizer("tiny-clip")
    pairs = zip(images, prompts, strict=True)
    features = [
        (network.encode_image(transform(i)[None], normalize=True), network.encode_text(tokenizer([p]), normalize=True))
        for i, p in pairs
    ]
    return torch.cat([(image * text).sum(1) for image, text in features])


# ---- CLIP similarity ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("local", [False, True])
def test_clip_similarity_is_open_clips(folder, local):
    """The folder states another preprocessing than the default, which the score must follow."""
    name, weights = (
        ("local-dir:" + str(folder / "local"), None) if local else ("tiny-clip", str(folder / "tiny-clip.pt"))
    )
    network, _, transform = open_clip.create_model_and_transforms(name, weights)
    images, floats = pictures()
    expected = cosines(network.eval(), transform, images, PROMPTS)
    assert load_clip(name, weights)(floats, PROMPTS) == pytest.approx(expected.detach(), abs=1e-6)
    assert load_clip(name, weights, scale=100)(floats, PROMPTS) == pytest.approx(100 * expected.detach(), abs=1e-4)


def test_hpsv2_pads_pictures_as_published(folder):
    network, _, _ = open_clip.create_model_and_transforms("tiny-clip", str(folder / "tiny-clip.pt"))
    padded = open_clip.transform.image_transform(32, False, resize_mode="longest")
    images, floats = pictures()
    expected = cosines(network.eval(), padded, images, PROMPTS)
    for source in (folder, folder / "HPS_v2.1_compressed.pt"):
        assert load_hpsv2(source, model="tiny-clip")(floats, PROMPTS) == pytest.approx(expected.detach(), abs=1e-6)
    with pytest.raises(ValueError, match=r"HPSv2 has no version 'v3'; there are v2.0, v2.1"):
        load_hpsv2(folder, "v3")


def test_long_prompts_keep_their_end_token_and_are_counted(clip):
    """Six words fit between the start and the end token; what follows must not matter."""
    fits = " ".join(LONG.split()[: CONTEXT - 2])
    seen, cut = clip.cut_prompts.seen, clip.cut_prompts.cut
    whole = clip.embed_prompts([fits])
    assert (clip.cut_prompts.seen, clip.cut_prompts.cut) == (seen + 1, cut)
    with pytest.warns(UserWarning, match="tiny-clip reads 8 tokens of a prompt: 2 of"):
        longer = clip.embed_prompts([fits + " seven", LONG, fits])
    assert torch.allclose(longer, whole.expand(3, -1), atol=1e-6)
    assert (clip.cut_prompts.seen, clip.cut_prompts.cut) == (seen + 4, cut + 2)


def test_scores_do_not_depend_on_the_batch_or_autocast(clip):
    _, floats = pictures(count=5)
    prompts = [*PROMPTS, "c", "d", "e"]
    together = clip(floats, prompts)
    singly = torch.cat([clip(floats[i : i + 1], [prompts[i]]) for i in range(5)])
    assert torch.allclose(together, singly, atol=1e-6)
    assert together.std() > 1e-3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(clip(floats, prompts), together)


def test_gradient_reaches_the_pixels(folder):
    reward = load_clip("tiny-clip", str(folder / "tiny-clip.pt"), differentiable=True)
    _, floats = pictures(32, 32)
    floats = (0.9 * floats).requires_grad_()
    (gradient,) = torch.autograd.grad(reward(floats, PROMPTS).sum(), floats)
    with torch.no_grad():
        step = 0.02 * gradient / gradient.norm()
        slope = (reward(floats + step, PROMPTS).sum() - reward(floats - step, PROMPTS).sum()) / (2 * step.norm())
    assert slope.item() == pytest.approx(gradient.norm().item(), rel=0.02)
    assert not any(parameter.requires_grad for parameter in reward.parameters())


def test_choices_that_cannot_score_are_one_line(folder, tmp_path):
    (tmp_path / "broken.pt").write_bytes(b"not weights")
    cases = [
        (("ViT-L-15", "openai"), "open_clip has no model 'ViT-L-15'; see ViT-L-1"),
        (("ViT-L-14", None), "pretrained is null, so ViT-L-14 would score at random"),
        (("ViT-L-14", "openai"), "another activation than the weights 'openai'; name ViT-L-14-quickgelu instead"),
        (("ViT-B-32-quickgelu", "laion2b_s34b_b79k"), "is neither a file nor a tag|name ViT-B-32 instead"),
        (("ViT-B-32", "none.pt"), "'none.pt' is neither a file nor a tag of ViT-B-32; its tags: .*laion2b_s34b_b79k"),
        (("tiny-clip", str(tmp_path / "broken.pt")), "cannot load the CLIP tiny-clip with weights .*broken.pt"),
        (("local-dir:" + str(tmp_path), None), "cannot load the CLIP local-dir:"),
        (("local-dir:" + str(folder / "local"), "openai"), "brings its own weights; set pretrained to null"),
    ]
    for choice, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            load_clip(*choice)
        assert "\n" not in str(caught.value)


# ---- PickScore ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pickscore_folder(tmp_path_factory):
    """A small CLIPModel and a CLIP tokenizer with the real vocabulary, in transformers' format."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("pickscore")
    text = {"vocab_size": 49408, "max_position_embeddings": CONTEXT, "eos_token_id": 49407}
    vision = {"image_size": 32, "patch_size": 16}
    width = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text | width, vision_config=vision | width, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    bpe = open_clip.tokenizer.SimpleTokenizer()
    vocabulary = {word: i for word, i in bpe.encoder.items() if i < 49406}
    vocabulary |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    CLIPTokenizer(vocabulary, list(bpe.bpe_ranks)).save_pretrained(folder)
    return folder


def test_pickscore_is_the_published_formula(pickscore_folder):
    """logit_scale * cosine, with the mask, padding to the longest and the image processor of the PickScore README."""
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    model = CLIPModel.from_pretrained(pickscore_folder).eval()
    images, floats = pictures()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixels = processor(images=images, return_tensors="pt")
    tokenizer = CLIPTokenizer.from_pretrained(pickscore_folder)
    prompts = ["a red cat", LONG]
    tokens = tokenizer(prompts, padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt")
    with torch.no_grad():
        out = model(**tokens, **pixels)
    reward = load_pickscore(pickscore_folder, pickscore_folder)
    with pytest.warns(UserWarning, match="PickScore reads 8 tokens of a prompt: 1 of 2"):
        scores = reward(floats, prompts)
    assert scores == pytest.approx(out.logits_per_image.diagonal(), abs=1e-5)
    assert scores.abs().max() > 0.1


def test_pickscore_reads_prompts_as_open_clip_does(pickscore_folder):
    tokenizer = load_pickscore(pickscore_folder, pickscore_folder).tokenizer
    ids, reference = tokenizer([*PROMPTS[:1], LONG]), open_clip.get_tokenizer("ViT-B-32")
    for row, expected in zip(ids.tolist(), reference([PROMPTS[0], LONG], context_length=CONTEXT).tolist(), strict=True):
        end = expected.index(49407) + 1
        assert row[:end] == expected[:end]


def test_missing_pickscore_is_one_line(pickscore_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for source in (str(tmp_path), "no-such-owner/pickscore"):
        with pytest.raises(
            ValueError, match=r"cannot get model.safetensors of .*; without a network, download"
        ) as caught:
            load_pickscore(source, pickscore_folder)
        assert "\n" not in str(caught.value)


def test_pickscore_with_a_random_part_is_refused(pickscore_folder, tmp_path):
    state = load_file(pickscore_folder / "model.safetensors")
    del state["logit_scale"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((pickscore_folder / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"lacks logit_scale \(1 entries lacking\)"):
        load_pickscore(tmp_path, pickscore_folder)


def test_every_score_checks_its_input(clip, pickscore_folder):
    images = torch.zeros(2, 3, 4, 4)
    for reward in (clip, load_pickscore(pickscore_folder, pickscore_folder)):
        for bad, prompts, message in [
            (images, ["one"], "2 images need as many prompts, got 1"),
            (images + 2, PROMPTS, "images must lie in"),
            (images[0], PROMPTS, "images must be"),
        ]:
            with pytest.raises(ValueError, match=message):
                reward(bad, prompts)
