"""Exports read back by plain open_clip and transformers; token ids and text features compared between the two."""

import json
from itertools import pairwise
from pathlib import Path

import open_clip
import pytest
import torch

from fewstep.backbones import clip_text_encoder, clip_tokenizer, load_clip_text_encoder
from fewstep.contrastive.network import CLIPNetwork
from fewstep.contrastive.vocabulary import count_words, learn_merges, write_vocabulary
from fewstep.picture_size import height_and_width
from fewstep.rewards.clip_scores import load_clip

CAPTIONS = ["a flat drawing of a red apple", "a 3D drawing of a red apple", "red apple, flat", "an apple & a pear!"]
ODD = ["", "A RED apple", "l'été\n à 1234", "it's 5 o'clock!!", "naïve 😀 apple", "[red] <apple> a/b", "an " * 40]
TEXT = {"context_length": 16, "width": 16, "heads": 2, "layers": 2}
TOWERS = {
    "vit": {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 4, "head_width": 16},
    "wide vit": {"image_size": [8, 24], "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "wide timm": {"image_size": [32, 64], "timm_model_name": "test_convnext"},
    "timm": {"image_size": 32, "timm_model_name": "test_convnext"},
}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "bpe.txt.gz"
    write_vocabulary(CAPTIONS * 2, 560, path)
    return str(path)


def network(vocabulary, tower="vit"):
    torch.manual_seed(0)
    return CLIPNetwork(8, TOWERS[tower], TEXT, vocabulary).eval()


def naive_merges(words, num_merges):
    """Algorithm 1 of Sennrich et al.: count all pairs anew before every merge."""
    splits = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    merges = []
    while len(merges) < num_merges:
        counts = {}
        for word, symbols in splits.items():
            for pair in pairwise(symbols):
                counts[pair] = counts.get(pair, 0) + words[word]
        counts = {pair: n for pair, n in counts.items() if n > 1}
        if not counts:
            break
        merges.append(min(counts, key=lambda pair: (-counts[pair], pair)))
        for word, symbols in splits.items():
            old, new = list(symbols), []
            while old:
                if tuple(old[:2]) == merges[-1]:
                    new.append("".join(old[:2]))
                    del old[:2]
                else:
                    new.append(old.pop(0))
            splits[word] = tuple(new)
    return merges


def test_merges_of_the_papers_example():
    words = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
    assert learn_merges(words, 3) == [("e", "s"), ("es", "t</w>"), ("l", "o")]


@pytest.mark.parametrize("seed", range(3))
def test_merges_against_counting_anew(seed):
    rng = torch.Generator().manual_seed(seed)
    letters = torch.randint(3, (60, 7), generator=rng).tolist()
    words = {"".join("abc"[i] for i in row): 1 + place % 5 for place, row in enumerate(letters)}
    merges = learn_merges(words, 200)
    assert merges == naive_merges(words, 200)
    assert len({"".join(pair) for pair in merges}) == len(merges)


def test_words_are_those_of_the_tokenizer():
    words = count_words(["Red  apple's 12", "é red"])
    assert words == {"red": 2, "apple": 1, "'s": 1, "1": 1, "2": 1, "Ã©": 1}


def test_vocabulary_is_small_repeatable_and_read_by_open_clip(vocabulary, tmp_path):
    size = write_vocabulary(CAPTIONS * 2, 560, tmp_path / "again.txt.gz")
    assert (tmp_path / "again.txt.gz").read_bytes() == Path(vocabulary).read_bytes()
    tokenizer = open_clip.SimpleTokenizer(bpe_path=vocabulary)
    assert tokenizer.vocab_size == size == tokenizer.eot_token_id + 1 <= 560
    assert tokenizer.decode(tokenizer.encode("zebra, red")) == "zebra , red "
    assert len(tokenizer.encode("apple")) == 1


def test_vocabulary_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="more than 514 tokens"):
        write_vocabulary(CAPTIONS, 514, tmp_path / "x.txt.gz")
    with pytest.raises(ValueError, match="repeat nothing"):
        write_vocabulary(["ab"], 600, tmp_path / "x.txt.gz")


@pytest.mark.parametrize("learnt", [True, False])
def test_token_ids_agree_between_open_clip_and_transformers(vocabulary, learnt, tmp_path):
    merges = {"bpe_path": vocabulary} if learnt else {}
    ours = open_clip.SimpleTokenizer(context_length=16, **merges)
    clip_tokenizer(vocabulary if learnt else None, 16).save_pretrained(tmp_path)
    theirs = open_clip.tokenizer.HFTokenizer(str(tmp_path), context_length=16)
    assert theirs.tokenizer.model_max_length == 16
    expected, ids = ours(CAPTIONS + ODD), theirs(CAPTIONS + ODD)
    for row, other in zip(expected.tolist(), ids.tolist(), strict=True):
        end = row.index(ours.eot_token_id) + 1
        assert other[:end] == row[:end]
        assert set(other[end:]) <= {ours.eot_token_id}


@pytest.mark.parametrize("tower", TOWERS)
def test_export_is_read_by_open_clip(vocabulary, tower, tmp_path):
    net = network(vocabulary, tower)
    net.export(tmp_path, torch.float32)
    clip = open_clip.create_model(f"local-dir:{tmp_path}", require_pretrained=True).eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    prompts = [text for text in CAPTIONS + ODD if text]
    size = height_and_width(TOWERS[tower]["image_size"])
    images = torch.randint(256, (len(prompts), 3, *size)) / 127.5 - 1  # 8 bit, as the scorer makes them
    with torch.no_grad():
        text = clip.encode_text(tokenizer(prompts), normalize=True)
        torch.testing.assert_close(text, net.encode_text(prompts), rtol=1e-5, atol=1e-6)
        cosine = (net.encode_image(images) * text).sum(1)
        shuffled = (net.encode_image(images.roll(1, 0)) * text).sum(1)
    with pytest.warns(UserWarning, match="1 of 10 prompts"):
        score = load_clip(f"local-dir:{tmp_path}", None)(images, prompts)
    torch.testing.assert_close(score, cosine, rtol=0, atol=1e-5)
    assert (shuffled - cosine).abs().max() > 1e-4


def test_export_in_half_precision_keeps_the_features_and_the_config(vocabulary, tmp_path):
    net = network(vocabulary)
    net.export(tmp_path)
    clip = open_clip.create_model(f"local-dir:{tmp_path}", require_pretrained=True).eval()
    tokens = net.tokenizer(CAPTIONS)
    torch.testing.assert_close(clip.encode_text(tokens), net.clip.encode_text(tokens), rtol=0, atol=5e-3)
    assert clip.token_embedding.weight.dtype == torch.float32
    stored = json.loads((tmp_path / "open_clip_config.json").read_text())
    assert stored["model_cfg"]["vision_cfg"] == TOWERS["vit"]
    assert "vocab_size" not in TEXT  # the caller's dict is left alone


def test_text_tower_is_transformers_text_model(vocabulary, tmp_path):
    net = network(vocabulary)
    with torch.no_grad():
        for parameter in net.clip.parameters():  # biases and norms start at 0 and 1, where a mix-up would not show
            parameter.add_(0.3 * torch.randn_like(parameter))
    net.export(tmp_path / "clip", torch.float32)
    encoder, tokenizer = load_clip_text_encoder(tmp_path / "clip")
    encoder.save_pretrained(tmp_path / "text_encoder")
    reloaded = type(encoder).from_pretrained(tmp_path / "text_encoder").eval()
    ids = tokenizer(CAPTIONS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    hidden = []
    net.clip.ln_final.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    with torch.no_grad():
        net.clip.encode_text(ids)
        for model in (encoder, reloaded):
            output = model(ids)
            torch.testing.assert_close(output.last_hidden_state, hidden[0], rtol=1e-5, atol=1e-6)
            ends = ids.argmax(1)
            torch.testing.assert_close(
                output.pooler_output, hidden[0][torch.arange(len(ids)), ends], rtol=1e-5, atol=1e-6
            )


def test_quick_gelu_towers_keep_their_activation():
    clip = open_clip.CLIP(8, TOWERS["vit"], TEXT | {"vocab_size": 100}, quick_gelu=True).eval()
    assert clip_text_encoder(clip).config.hidden_act == "quick_gelu"


def test_stock_vocabulary_needs_no_file(tmp_path):
    net = CLIPNetwork(8, TOWERS["vit"], TEXT)
    assert net.config["text_cfg"]["vocab_size"] == 49408
    net.export(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"open_clip_config.json", "open_clip_model.safetensors"}
    assert isinstance(open_clip.get_tokenizer(f"local-dir:{tmp_path}"), open_clip.SimpleTokenizer)


def test_only_matrices_decay(vocabulary):
    net = network(vocabulary)
    groups = net.parameter_groups()
    names = {id(parameter): name for name, parameter in net.clip.named_parameters()}
    free = {names[id(parameter)] for parameter in groups["free"]}
    assert len(free) + len(groups["decay"]) == len(names)
    assert {"logit_scale", "positional_embedding", "ln_final.bias", "visual.class_embedding"} <= free
    assert all(name.endswith("bias") or "ln_" in name or "embedding" in name or name == "logit_scale" for name in free)
    assert "visual.conv1.weight" not in free
    assert "token_embedding.weight" not in free


def test_scale_is_clamped_on_both_sides(vocabulary):
    net = network(vocabulary)
    for start, end in ((9.0, 100.0), (-1.0, 1.0), (2.0, 7.389056)):
        net.clip.logit_scale.data.fill_(start)
        net.clamp_scale(100.0)
        assert net.scale.item() == pytest.approx(end)


@pytest.mark.parametrize(
    ("vision", "text", "words", "message"),
    [
        ({"widht": 3}, TEXT, None, "widht"),
        (TOWERS["vit"] | {"timm_model_name": "no_such_net"}, TEXT, None, "no_such_net"),
        (TOWERS["vit"], TEXT | {"heads": 3}, None, "open_clip cannot build"),
        (TOWERS["vit"], TEXT, "nowhere.txt.gz", "prepare.vocabulary"),
    ],
)
def test_bad_sizes_are_one_line(vision, text, words, message):
    with pytest.raises(ValueError, match=message) as caught:
        CLIPNetwork(8, vision, text, words)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_network_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="cannot load a CLIP from the folder"):
        load_clip_text_encoder(tmp_path)
