"""A reward of pairs: closed forms of the loss, pairs read by the judge of attributes, files of strangers."""

import gzip
import json
import math
from pathlib import Path

import pytest
import torch

from datamodules import ImageTextDataModule
from fewstep.augmentation import Augmentation
from fewstep.collaboration.oracles import load_oracle
from fewstep.contrastive.vocabulary import write_vocabulary
from fewstep.rewards.attribute_reader import load_attribute_reader
from fewstep.rewards.attributes import judge, tiles
from fewstep.rewards.preference import PreferenceReward, load_preference_reward
from fewstep.rewards.preference_pairs import (
    WORSE,
    End,
    bradley_terry_losses,
    constructed,
    mean_of_kinds,
    mixed,
    pair_rewards,
    says_something,
    swapped_persons,
)
from fewstep.rng import PerSampleRng

ROOT = Path(__file__).parents[3]
PROMPTS = ["on the left red, on the right blue", "red", "on the left green, on the right green, on white"]
SMALL = {"trunk_options": {"depths": [1] * 4, "dims": [8] * 4}, "image_size": (32, 64), "width": 16, "heads": 2}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "merges.txt.gz"
    write_vocabulary(PROMPTS * 2, 560, path)
    return path


@pytest.fixture
def reward(vocabulary):
    """With a head that is not almost 0."""
    torch.manual_seed(0)
    model = PreferenceReward(vocabulary, **SMALL, context_length=20).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def pictures(count=3):
    return torch.rand(count, 3, 32, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_loss_of_a_pair_in_closed_form():
    """Equal rewards ln 2; odds of 3 to 1 lose ln(4 / 3) or ln 4; far apart the difference itself, without overflow."""
    better, worse = torch.tensor([0.7, math.log(3), 0.0, -1e4]), torch.tensor([0.7, 0.0, math.log(3), 0.0])
    expected = [math.log(2), math.log(4 / 3), math.log(4), 1e4]
    assert bradley_terry_losses(better, worse).tolist() == pytest.approx(expected, rel=1e-6)


def test_the_gradient_lifts_the_better_and_vanishes_at_the_odds():
    better, worse = torch.zeros(2, requires_grad=True), torch.tensor([0.0, -2.0], requires_grad=True)
    bradley_terry_losses(better, worse).sum().backward()
    wrong = [1 / (1 + math.exp(difference)) for difference in (0.0, 2.0)]
    assert better.grad.tolist() == pytest.approx([-share for share in wrong])
    assert worse.grad.tolist() == pytest.approx(wrong)
    odds = torch.tensor([math.log(0.8 / 0.2)], requires_grad=True)  # of one that wins 8 of 10 times
    (0.8 * bradley_terry_losses(odds, torch.zeros(1)) + 0.2 * bradley_terry_losses(torch.zeros(1), odds)).backward()
    assert odds.grad.item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("persons", [1, 2, 3])
def test_swapped_persons_stand_one_place_further(persons):
    images = pictures(2)[..., :60]
    moved = swapped_persons(images, persons)
    before, after = (tiles(several, persons).unflatten(0, (2, persons)) for several in (images, moved))
    assert torch.equal(after, before[:, [(place - 1) % persons for place in range(persons)]])
    with pytest.raises(ValueError, match="60 pixels width cannot be shared by 7 persons"):
        swapped_persons(images, 7)


def scenes():
    """The 39 test scenes, as ends of their edits."""
    data = ImageTextDataModule(
        str(ROOT / "data" / "avatar_scenes64"), (64, 128), eval_batch_size=39, num_workers=0, images=["edited"],
        metadata=["edited_caption", "attributes", "edited_attributes"],
    )  # fmt: skip
    batch = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    ends = [End(*(batch[name] for name in names)) for names in (
        ("image", "caption", "attributes"), ("edited", "edited_caption", "edited_attributes"),
    )]  # fmt: skip
    return ends[0], ends[1]


def test_constructed_pairs_are_wrong_in_what_they_say():
    """By the shipped judge: the picture has what is asked, the edited one all but one attribute of one person."""
    end, edited = scenes()
    pairs = constructed(end, edited, Augmentation(), Augmentation(blur=3.0, noise=0.6))
    reader = load_attribute_reader(ROOT / "assets" / "avatar_judge")

    def wrong(picture, attributes):
        found = judge(reader, pairs.images[picture], attributes)
        return (found.asked & ~found.right).sum((1, 2)).float().mean().item()

    assert wrong("image", end.attributes) < 0.2
    assert wrong("edited", end.attributes) == pytest.approx(1.0, abs=0.5)  # long hair under a new hat: further ones
    assert wrong("edited", edited.attributes) < 0.2
    assert wrong("swapped", [persons[::-1] for persons in end.attributes]) < 0.2
    assert wrong("swapped", end.attributes) > 3
    assert all(pairs.says[kind].all() for kind in WORSE)
    assert pairs.captions == {"caption": end.caption, "edited_caption": edited.caption}


def end_of(*captions, attributes=None):
    return End(pictures(len(captions)), list(captions), attributes or [{"hat": "red"}] * len(captions))


def test_pairs_that_say_nothing_are_known():
    alike, unlike = [{"hat": "red"}, {"hat": "red"}], [{"hat": "red"}, {"hat": "none"}]
    end, edited = end_of("a", "b", "b", attributes=[alike, unlike, unlike]), end_of("c", "b", "d")
    says = {kind: told.tolist() for kind, told in says_something(end, edited).items()}
    assert says["caption"] == says["edited"] == [True, False, True]
    assert says["swapped"] == [False, True, True]
    assert says["other"] == [True, True, False]  # the one before: b, a, b
    assert says["degraded"] == [True] * 3
    assert not says_something(end_of("a"), end_of("b"))["swapped"].any()  # one person has no other place
    values = {"caption": torch.tensor([1.0, 9.0, 2.0]), "other": torch.tensor([3.0, 5.0, 9.0])}
    told = {"caption": torch.tensor([True, False, True]), "other": torch.tensor([True, False, False])}
    assert mean_of_kinds(values, told).tolist() == [2.0, 0.0, 2.0]


def test_either_end_of_an_edit_may_be_the_better_one():
    first, second = end_of("a", "b"), End(-pictures(2), ["c", "d"], [{"hat": "none"}] * 2)
    one, other = mixed(first, second, torch.tensor([True, False]))
    assert (one.caption, other.caption) == (["c", "b"], ["a", "d"])
    assert one.attributes == [{"hat": "none"}, {"hat": "red"}]
    assert torch.equal(one.image, torch.stack([second.image[0], first.image[1]]))
    assert torch.equal(other.image, torch.stack([first.image[0], second.image[1]]))


def test_pictures_of_a_pair_are_moved_alike_and_degraded_by_the_key():
    end, change = end_of("a", "b", "c"), Augmentation(shift=3, scale=0.1, blur=1.0)
    images = constructed(end, end, change, Augmentation(noise=0.5, smear=2.0)).images
    assert torch.equal(images["image"], images["edited"])
    assert not torch.equal(images["image"], end.image)
    assert ((images["degraded"] - images["image"]).abs().amax((1, 2, 3)) > 0.01).all()
    alone = End(end.image[1:2], ["b"], end.attributes[1:2])
    whole, part = (
        constructed(e, e, Augmentation(), Augmentation(noise=0.5, smear=2.0, blur=1.0), PerSampleRng(0, keys))
        for e, keys in ((end, ["x", "y", "z"]), (alone, ["y"]))
    )
    torch.testing.assert_close(whole.images["degraded"][1:2], part.images["degraded"], rtol=0, atol=1e-5)


def test_rewards_of_pairs_are_those_of_their_pictures_and_captions(reward):
    end = End(pictures(), PROMPTS, [[{"hat": "red"}, {"hat": "none"}]] * 3)
    edited = End(-pictures(), PROMPTS[::-1], end.attributes)
    pairs = constructed(end, edited, Augmentation(), Augmentation(blur=2.0))
    with torch.no_grad():
        better, worse = pair_rewards(reward, pairs)
        images = pairs.images | {"other": end.image[[2, 0, 1]]}
        torch.testing.assert_close(better, reward(end.image, PROMPTS), rtol=1e-4, atol=1e-5)
        for kind, (picture, caption) in WORSE.items():
            expected = reward(images[picture], pairs.captions[caption])
            torch.testing.assert_close(worse[kind], expected, rtol=1e-4, atol=1e-5, msg=kind)
            assert (expected - better).abs().max() > 1e-3, kind


def test_a_reward_reads_words_up_to_the_end_and_picture(reward):
    with torch.no_grad():
        scores = reward(pictures(), PROMPTS)
        alone = torch.cat([reward(pictures()[row : row + 1], PROMPTS[row : row + 1]) for row in range(3)])
        torch.testing.assert_close(scores, alone, rtol=1e-4, atol=1e-5)
        reward.words.weight[0] += 1.0  # the number that fills up, and "!", which nobody says
        torch.testing.assert_close(reward(pictures(), PROMPTS), scores, rtol=1e-4, atol=1e-5)
        assert (reward(pictures().flip(3), PROMPTS) - scores).abs().min() > 1e-4
        assert (reward(pictures()[:1], ["on the left blue, on the right red"]) - scores[0]).abs() > 1e-4


def test_longer_prompts_are_cut_with_a_warning(reward):
    words = ["red"] * 40
    with pytest.warns(UserWarning, match="the preference reward reads 20 tokens of a prompt: 1 of 1"):
        cut = reward(pictures(1), [" ".join(words)])
    assert torch.equal(cut, reward(pictures(1), [" ".join(words[:18])]))


def test_an_exported_reward_scores_alike_bit_for_bit_and_is_an_oracle(reward, tmp_path):
    reward.save_pretrained(tmp_path)
    reward.save_pretrained(tmp_path)
    again = load_oracle(f"preference={tmp_path}")
    expected = reward.requires_grad_(False)(pictures(), PROMPTS)  # torch has other kernels for weights that learn
    assert isinstance(again, PreferenceReward)
    assert expected.shape == (3,)
    assert not any(weight.requires_grad for weight in again.parameters())
    assert torch.equal(again(pictures(), PROMPTS), expected)
    with pytest.raises(ValueError, match="oracle 'preference': say where its weights are, such as preference="):
        load_oracle("preference")
    with pytest.raises(ValueError, match="3 images need as many prompts, got 1"):
        again(pictures(), PROMPTS[:1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": 1}, "describes no preference reward: it needs context_length, "),
        ({"width": "large"}, "width='large': give a whole number"),
        ({"width": 10**9}, "width=1000000000: must be at least 1 and at most 4096"),
        ({"cross_layers": 0}, "cross_layers=0: must be at least 1"),
        ({"heads": 3}, "width=16 is no multiple of heads=3"),
        ({"trunk": "hf-hub:stranger/net"}, "is no network of timm"),
        ({"trunk_options": {"checkpoint_path": "evil.pth"}}, r"trunk_options\.checkpoint_path is nothing"),
        ({"image_size": [0, 1]}, "image_size="),
        ({"context_length": 21}, "positions has shape"),
    ],
)
def test_a_folder_names_sizes_and_nothing_to_load(reward, tmp_path, change, message):
    reward.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message) as caught:
        load_preference_reward(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", r"cannot read the vocabulary .*bpe\.txt\.gz"),
        (gzip.compress(b"#\n\xff\xfe"), "cannot read the vocabulary"),
        (gzip.compress(bytes((1 << 24) + 1)), "unpacks to more than 16777216 bytes"),
        (gzip.compress(b"#\na b"), r"words\.weight has shape"),
    ],
    ids=["no archive", "no text", "too large", "another"],  # an archive holds the time, which no two processes share
)
def test_vocabularies_that_are_none_are_one_line(reward, tmp_path, content, message):
    reward.save_pretrained(tmp_path)
    (tmp_path / "bpe.txt.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_preference_reward(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_finite_and_files_that_lack_are_named(reward, tmp_path):
    reward.head.bias.data.fill_(math.nan)
    reward.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model\.safetensors holds values that are not finite"):
        load_preference_reward(tmp_path)
    (tmp_path / "bpe.txt.gz").unlink()
    with pytest.raises(ValueError, match=r"holds no bpe\.txt\.gz"):
        load_preference_reward(tmp_path)
