"""Readers of attributes: what is right by a reader made by hand, calibration against closed forms, files."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from datamodules import ImageTextDataModule
from fewstep.rewards.attribute_reader import (
    AttributeReader,
    fitted_temperature,
    load_attribute_reader,
    reading_losses,
)
from fewstep.rewards.attributes import AttributeReward, ProbabilityReward, judge, labels_of, listed, tiles
from fewstep.rewards.trunks import resized

ROOT = Path(__file__).parents[3]
VALUES = {"colour": ["red", "green", "blue"], "bright": ["yes", "no"]}
SMALL = {"trunk": "convnext_atto", "trunk_options": {"depths": [1] * 4, "dims": [8] * 4}, "image_size": 32}


class ByEye(nn.Module):
    """Reads the strongest channel, and whether the mean is above 0, with logits of 4 and 2."""

    values = VALUES

    def forward(self, images):
        mean = images.mean((2, 3))
        colour = 4.0 * F.one_hot(mean.argmax(1), 3)
        bright = torch.stack([mean.mean(1) > 0, mean.mean(1) <= 0], 1) * 2.0
        return {"colour": colour.log_softmax(1), "bright": bright.log_softmax(1)}


def plain(*colours):
    """[B, 3, 4, 6] of one colour each."""
    return torch.tensor(colours)[:, :, None, None].expand(-1, 3, 4, 6).clone()


def test_judgement_of_single_pictures():
    images = plain((0.9, 0.1, 0.1), (-0.9, -0.1, -0.5), (0.0, 0.2, 0.6))
    wanted = [{"colour": "red", "bright": "no"}, {"colour": "green"}, {"colour": "red", "bright": "no"}]
    found = judge(ByEye(), images, wanted)
    assert found.asked.tolist() == [[[True, True]], [[True, False]], [[True, True]]]
    assert found.right.tolist() == [[[True, False]], [[True, False]], [[False, False]]]
    assert found.share_right.tolist() == [0.5, 1.0, 0.0]
    assert found.all_right.tolist() == [False, True, False]
    right, wrong = -math.log(1 + 2 * math.exp(-4)), -math.log(1 + math.exp(2))
    assert found.mean_log_p.tolist() == pytest.approx([(right + wrong) / 2, right, (right - 4 + wrong) / 2], rel=1e-5)
    assert torch.equal(AttributeReward(ByEye())(images, wanted), found.mean_log_p)
    both = [math.exp(right + wrong), math.exp(right), math.exp(right - 4 + wrong)]
    assert ProbabilityReward(ByEye())(images, wanted).tolist() == pytest.approx(both, rel=1e-5)


def test_every_person_is_read_in_its_own_part():
    picture = torch.cat([plain((1.0, 0.0, 0.0)), plain((0.0, 0.0, 1.0))], 3)
    found = judge(ByEye(), torch.cat([picture, picture.flip(3)]), [[{"colour": "red"}, {"colour": "blue"}]] * 2)
    assert found.all_right.tolist() == [True, False]
    assert found.share_right.tolist() == [1.0, 0.0]
    parts = tiles(torch.arange(2 * 3 * 2 * 6).view(2, 3, 2, 6), 3)
    assert torch.equal(parts[1], torch.arange(36).view(3, 2, 6)[..., 2:4])
    assert torch.equal(parts[3], 36 + torch.arange(36).view(3, 2, 6)[..., :2])
    with pytest.raises(ValueError, match="7 pixels width cannot be shared by 2 persons"):
        tiles(torch.zeros(1, 3, 4, 7), 2)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ([{"color": "red"}], "attribute 'color' is none of those that are read: colour, bright"),
        ([{"colour": "pink"}], "attribute colour='pink': known values are red, green, blue"),
        ([{"colour": ["red"]}], r"attribute colour=\['red'\] is a list; write text, such as 'red'"),
        ([{"colour": 3}], "attribute colour=3 is a int; write text, such as 'red'"),
    ],
)
def test_attributes_that_no_reader_knows_are_one_line(attributes, message):
    with pytest.raises(ValueError, match=message):
        labels_of(attributes, VALUES)


@pytest.mark.parametrize("wanted", [[{}, [{}, {}]], [None], [[]], [["red"]], [5, 5], []])
def test_attributes_of_another_form_are_one_line(wanted):
    with pytest.raises(ValueError, match="attributes") as caught:
        listed(wanted)
    assert "\n" not in str(caught.value)


def test_what_is_not_said_is_not_asked():
    labels = labels_of([{"colour": "blue"}, {}, {"bright": None}], VALUES)
    assert {name: column.tolist() for name, column in labels.items()} == {"colour": [2, -1, -1], "bright": [-1, -1, -1]}
    assert judge(ByEye(), plain((1.0, 0.0, 0.0)), [{}]).all_right.tolist() == [True]


def test_the_temperature_undoes_a_wrong_scale():
    """Labels drawn from softmax(z): logits c z are calibrated by T = c."""
    torch.manual_seed(0)
    true = 2 * torch.randn(20_000, 4)
    labels = true.softmax(1).multinomial(1)[:, 0]
    for scale in (0.25, 1.0, 5.0):
        assert fitted_temperature(scale * true, labels) == pytest.approx(scale, rel=0.05)


def test_the_temperature_of_two_values_in_closed_form():
    """All logits (a, 0), a share p of them right: a / log(p / (1 - p)), p moved by the doubt of 100 labels."""
    labels = torch.cat([torch.zeros(90), torch.ones(10)]).long()
    logits = torch.tensor([[3.0, 0.0]]).expand(100, 2)
    p = 0.9 * 101 / 102 + 0.1 / 102
    assert fitted_temperature(logits, labels) == pytest.approx(3 / math.log(p / (1 - p)), rel=1e-3)


@pytest.mark.parametrize("count", [8, 998])
def test_nobody_is_surer_than_so_many_right_answers_allow(count):
    """All right: the probability of the label becomes (N + 1) / (N + 2), whatever the logits."""
    logits = torch.tensor([[12.0, 0.0]]).expand(count, 2)
    temperature = fitted_temperature(logits, torch.zeros(count, dtype=torch.long))
    sure = (logits[0] / temperature).softmax(0)[0].item()
    assert sure == pytest.approx((count + 1) / (count + 2), rel=1e-4)


def asked_and_answered(logits, label):
    """The binary cross-entropy of every question that may be asked, by its probability."""
    several = len(logits)
    total = 0.0
    for asked, logit in enumerate(logits):
        right = asked == label
        p = 1 / (1 + math.exp(-logit))
        total += (0.5 if right else 0.5 / (several - 1)) * -math.log(p if right else 1 - p)
    return total


def test_the_loss_of_a_verifier_is_that_of_what_may_be_asked():
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [3.0, 1.0, -4.0]])
    losses = reading_losses(logits, torch.tensor([0, 2, -1]), "sigmoid").tolist()
    expected = [asked_and_answered(logits[0].tolist(), 0), math.log(2), 0.0]
    assert losses == pytest.approx(expected, rel=1e-6)


def test_the_loss_of_a_judge_is_cross_entropy():
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 5), torch.randint(-1, 5, (50,))
    expected = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
    torch.testing.assert_close(reading_losses(logits, labels, "softmax"), expected)


def test_a_verifier_is_least_wrong_at_the_odds_of_its_question():
    """Of pictures 60 % show the first of 3 values: asked for half of the time where right, a quarter where not."""
    logits = torch.tensor([[math.log(2 * 0.6 / 0.4), 0.0, 0.0]], requires_grad=True)
    losses = reading_losses(logits.expand(10, 3), torch.tensor([0] * 6 + [1] * 4), "sigmoid")
    assert torch.autograd.grad(losses.sum(), logits)[0][0, 0].item() == pytest.approx(0.0, abs=1e-6)


def test_the_temperature_of_a_verifier_in_closed_form():
    """Two values with logits (a, -a), a share p of the first: a / log(p / (1 - p)), p moved by the doubt of 100."""
    labels = torch.cat([torch.zeros(90), torch.ones(10)]).long()
    p = 0.9 * 101 / 102 + 0.1 / 102
    temperature = fitted_temperature(torch.tensor([[3.0, -3.0]]).expand(100, 2), labels, "sigmoid")
    assert temperature == pytest.approx(3 / math.log(p / (1 - p)), rel=1e-3)


def test_a_verifier_rewards_the_mean_log_sigmoid_of_what_is_asked(tmp_path):
    torch.manual_seed(0)
    reader = AttributeReader(VALUES, **SMALL, objective="sigmoid").eval()
    reader.temperatures[0] = 2.0
    reader.save_pretrained(tmp_path)
    again, images = load_attribute_reader(tmp_path), torch.rand(2, 3, 32, 32) * 2 - 1
    assert again.objective == "sigmoid"
    wanted = [{"colour": "blue", "bright": "no"}, {"colour": "red"}]
    logits = {name: values.detach() for name, values in reader.logits(images).items()}
    colour, bright = (1 / (1 + (-logits[name] / t).exp()) for name, t in (("colour", 2.0), ("bright", 1.0)))
    expected = [(colour[0, 2].log() + bright[0, 1].log()).item() / 2, colour[1, 0].log().item()]
    assert AttributeReward(again)(images, wanted).tolist() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="objective='margin': choose one of softmax, sigmoid"):
        AttributeReader(VALUES, **SMALL, objective="margin")


def test_a_folder_without_an_objective_is_a_judge(tmp_path):
    AttributeReader(VALUES, **SMALL).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("objective") == "softmax"
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = load_attribute_reader(tmp_path)
    assert again.objective == "softmax"
    for log_probs in again(torch.rand(2, 3, 32, 32)).values():
        torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(2))


def test_calibration_leaves_the_answers_and_counts_what_is_told():
    torch.manual_seed(0)
    reader = AttributeReader(VALUES, **SMALL).eval()
    images = torch.rand(6, 3, 32, 32) * 2 - 1
    before = reader(images)
    logits = {"colour": torch.tensor([[3.0, 0.0, -50.0]]).expand(101, 3), "bright": torch.zeros(101, 2)}
    told = torch.cat([torch.zeros(90), torch.ones(10), torch.tensor([-1.0])]).long()
    reader.calibrate(logits, {"colour": told, "bright": torch.full((101,), -1)})
    told = fitted_temperature(logits["colour"][:100], told[:100])
    assert reader.temperatures.tolist() == pytest.approx([told, 1.0], rel=1e-6)
    after = reader(images)
    assert torch.equal(after["colour"].argmax(1), before["colour"].argmax(1))
    torch.testing.assert_close(after["colour"], (before["colour"] / reader.temperatures[0]).log_softmax(1))


def test_a_reader_comes_back_from_its_folder(tmp_path):
    reader = AttributeReader(VALUES, **{**SMALL, "image_size": (64, 32)}).half()
    reader.temperatures[0] = 2.5
    reader.save_pretrained(tmp_path)
    again = load_attribute_reader(tmp_path)
    images = torch.rand(2, 3, 64, 32)
    expected = reader.float().eval()(images)
    for name, values in again(images).items():
        torch.testing.assert_close(values, expected[name])
    assert not any(p.requires_grad for p in again.parameters())


def test_smaller_pictures_of_pixels_are_read_as_blocks():
    small = torch.rand(2, 3, 4, 3)
    blocks = torch.from_numpy(np.kron(small.numpy(), np.ones((2, 3), dtype=np.float32)))
    assert torch.equal(resized(small, (8, 9)), blocks)
    assert resized(small, (4, 3)) is small
    flat = torch.full((1, 3, 40, 30), 0.3)
    torch.testing.assert_close(resized(flat, (16, 16)), torch.full((1, 3, 16, 16), 0.3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trunk": "hf-hub:stranger/net"}, "is no network of timm"),
        ({"trunk_options": {"checkpoint_path": "evil.pth"}}, "trunk_options.checkpoint_path is nothing"),
        ({"trunk_options": {"pretrained_cfg_priority": 1}}, "trunk_options.pretrained_cfg_priority is nothing"),
        ({"trunk_options": {"depths": "many"}}, "timm cannot build the trunk 'convnext_atto'"),
        ({"values": {"colour": ["red"]}}, "give every attribute two values or more"),
        ({"values": {"colour": ["red", "red", "blue"]}}, r"values\.colour=.* two values or more, each once"),
        ({"values": {"colour": "red"}}, "values.colour='red': give every attribute two values or more"),
        ({"values": ["colour"]}, r"values=\['colour'\]: give {attribute: \[its values\]}"),
        ({"values": {"items": ["red", "blue"]}}, "values.items: no attribute can have this name"),
        ({"values": {"hair.colour": ["red", "blue"]}}, "values.hair.colour: no attribute can have this name"),
        ({"trunk": 5}, "trunk 5 is no network of timm"),
        ({"trunk_options": [1]}, r"trunk_options=\[1\]: give"),
        ({"more": 1}, "describes no attribute reader"),
        ({"objective": ["softmax"]}, r"objective=\['softmax'\]: choose one of softmax, sigmoid"),
    ],
)
def test_a_folder_names_sizes_and_nothing_to_load(tmp_path, change, message):
    AttributeReader(VALUES, **SMALL).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        load_attribute_reader(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trunk": "vit_tiny_patch16_224", "trunk_options": {}}, "cannot read pictures of 32: Input height"),
        ({"image_size": 1}, "the trunk 'convnext_atto' cannot read pictures of 1: "),
        ({"trunk_options": {"in_chans": 1}}, "trunk_options.in_chans is nothing that a reader takes"),
        ({"trunk_options": {5: 1}}, "timm cannot build the trunk"),
    ],
)
def test_trunks_that_take_no_such_pictures_are_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        AttributeReader(VALUES, **SMALL | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("temperatures", 0.0, "holds temperatures of 0 or less; export it again"),
        ("temperatures", -1.0, "holds temperatures of 0 or less; export it again"),
        ("heads.colour.bias", math.nan, r"model\.safetensors holds values that are not finite; export it again"),
    ],
)
def test_weights_that_answer_nothing_are_refused(tmp_path, name, value, told):
    reader = AttributeReader(VALUES, **SMALL)
    reader.state_dict()[name].fill_(value)
    reader.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=told):
        load_attribute_reader(tmp_path)


def test_weights_of_another_reader_are_one_line(tmp_path):
    AttributeReader(VALUES, **SMALL).save_pretrained(tmp_path)
    other = AttributeReader({"colour": ["red", "green"]}, **SMALL)
    other.save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors") as caught:
        load_attribute_reader(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", ["avatar_judge", "avatar_judge_held_out"])
@pytest.mark.parametrize("data", ["avatars64", "avatar_scenes64"])
def test_shipped_readers_read_avatars_of_combinations_that_they_never_saw(reader, data):
    """One by one and, though they have seen single ones only, person by person in scenes."""
    folder = ROOT / "assets" / reader
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3e6
    size = 64 if data == "avatars64" else (64, 128)
    module = ImageTextDataModule(str(ROOT / "data" / data), size, metadata=["attributes"], num_workers=0)
    network, right, told = load_attribute_reader(folder), 0, 0
    for batch in module.test_dataloader():
        images = module.on_after_batch_transfer(batch, 0)["image"]
        rows = batch["weight"].nonzero()[:, 0].tolist()
        found = judge(network, images[rows], [batch["attributes"][row] for row in rows])
        right, told = right + int(found.right.sum()), told + int(found.asked.sum())
    assert right / told > 0.98
    assert told > 500
