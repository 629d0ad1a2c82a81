"""A checkpoint that draws with its teacher: the pictures of `draw` from its export, and only of the same weights."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from fewstep.collaboration import oracles
from fewstep.collaboration.__main__ import main
from fewstep.collaboration.student_at_hand import CascadeOptions
from fewstep.files.pictures import to_picture
from fewstep.rewards.attribute_reader import AttributeReader
from fewstep.rng import PerSampleRng
from tests.lightning_modules.test_collaboration import module, plain, randomise  # noqa: F401
from tests.lightning_modules.test_icd import trainer
from tests.tiny_diffusion import CAPTIONS, batch

TEACHER = {"teacher_steps": 3, "teacher_scale": 2.0}
FLAGS = ["--student-steps", "2", "--teacher-steps", "3", "--teacher-scale", "2"]


class Redness(nn.Module):
    """An oracle that needs no weights and no attributes."""

    def forward(self, images, prompts):
        return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


@pytest.fixture(autouse=True)
def redness(monkeypatch):
    monkeypatch.setitem(oracles.ORACLES, "redness", Redness)


@pytest.fixture(scope="module")
def exported(plain, tmp_path_factory):  # noqa: F811
    """(module, its export, prompts, calibration)."""
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    net = module(plain)
    randomise(net)
    net.export(str(folder / "export"))
    prompts = folder / "prompts.jsonl"
    colours = [{"colour": caption.split()[1]} for caption in CAPTIONS]
    rows = [
        {"prompt": CAPTIONS[n % 4], "key": f"k{n}", "attributes": colours[n % 4]}
        for n in range(8)
    ]  # fmt: skip
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(oracles.ORACLES, "redness", Redness)
        calibration = calibrated(folder / "export", prompts, "redness", folder / "calibration.json")
    return net, folder / "export", prompts, calibration


def calibrated(export, prompts, oracle, out):
    argv = ["calibrate", str(export), "--oracle", oracle, "--prompts", str(prompts), *FLAGS, "--out", str(out)]
    assert main(argv) == 0
    return str(out)


def drawn(export, prompts, oracle, calibration, out):
    """{key: pixels} of the command."""
    from PIL import Image

    argv = ["draw", str(export), "--oracle", oracle, "--prompts", str(prompts), *FLAGS, "--k", "50", "--out", str(out)]
    assert main([*argv, "--calibration", calibration]) == 0
    routes = [json.loads(line)["route"] for line in (out / "samples.jsonl").read_text().splitlines()]
    assert set(routes) == {"keep", "refine"}
    return {file.stem: np.asarray(Image.open(file)) for file in out.glob("*.png")}


def assert_pictures(images, keys, expected):
    for image, key in zip(images, keys, strict=True):
        assert abs(np.asarray(to_picture(image[None])).astype(int) - expected[key]).max() <= 1


def test_predict_draws_what_the_command_draws_from_the_export(plain, exported, tmp_path):  # noqa: F811
    net, export, prompts, calibration = exported
    expected = drawn(export, prompts, "redness", calibration, tmp_path / "drawn")
    again = module(plain, cascade=CascadeOptions("redness", calibration, k=50, **TEACHER))
    again.load_state_dict(net.state_dict())
    batches = [batch(range(4)), batch(range(4, 8))]
    parts = trainer(tmp_path).predict(again, DataLoader(batches, batch_size=None))
    assert again.state_dict().keys() == net.state_dict().keys()
    images = torch.cat([part["image"] for part in parts])
    keys = [f"k{n}" for n in range(8)]
    assert_pictures(images, keys, expected)
    alone = net.generate_images(CAPTIONS, PerSampleRng(0, keys[:4]))
    assert not torch.equal(alone, images[:4])
    again.export(str(tmp_path / "again"))
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["student", "student.json"]


def test_an_oracle_that_reads_attributes_is_told_those_of_the_batch(plain, exported, tmp_path):  # noqa: F811
    net, export, prompts, _ = exported
    torch.manual_seed(0)
    values = {"colour": [caption.split()[1] for caption in CAPTIONS]}
    reader = AttributeReader(values, "convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}, 32)
    reader.save_pretrained(tmp_path / "reader")
    oracle = f"attributes={tmp_path / 'reader'}"
    calibration = calibrated(export, prompts, oracle, tmp_path / "calibration.json")
    expected = drawn(export, prompts, oracle, calibration, tmp_path / "drawn")
    again = module(plain, cascade=CascadeOptions(oracle, calibration, k=50, **TEACHER))
    again.load_state_dict(net.state_dict())
    rows = batch(range(8)) | {"attributes": [{"colour": CAPTIONS[n % 4].split()[1]} for n in range(8)]}
    assert_pictures(again.predict_step(rows, 0)["image"], rows["key"], expected)
    with pytest.raises(ValueError, match=r"cascade.oracle attributes=.* reads attributes, which these prompts do not"):
        again.predict_step(batch(range(2)), 0)


def test_a_calibration_of_other_weights_is_refused(plain, exported, tmp_path):  # noqa: F811
    net, _, _, calibration = exported
    other = module(plain, cascade=CascadeOptions("redness", calibration, k=50, **TEACHER))
    other.load_state_dict(net.state_dict())
    keys = [f"k{n}" for n in range(4)]
    other.generate_images(CAPTIONS, PerSampleRng(0, keys))
    with pytest.raises(ValueError, match="the calibration is of student steps 2, this is 4; calibrate again"):
        other.generate_images(CAPTIONS, PerSampleRng(0, keys), num_steps=4)
    torch.manual_seed(1)
    randomise(other)
    with pytest.raises(ValueError, match=r"the calibration is of student \w+, this is \w+; calibrate again"):
        trainer(tmp_path).predict(other, DataLoader([batch(range(4))], batch_size=None))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "cascade: give one of mean_passes and k"),
        ({"mean_passes": 5.0, "k": 50.0}, "cascade: give one of mean_passes and k"),
        ({"k": 50.0, "solver": "euler"}, "cascade.solver='euler': choose one of"),
    ],
)
def test_mistakes_are_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        CascadeOptions("redness", "calibration.json", **options)
    assert "\n" not in str(caught.value)
