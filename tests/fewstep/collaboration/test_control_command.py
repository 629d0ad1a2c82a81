"""Control from the shell: a network for student and teacher, its pictures beside the prompts, and what is refused."""

import json

import pytest
import torch
from PIL import Image

from fewstep.collaboration.__main__ import main
from fewstep.collaboration.calibration import Calibration
from fewstep.collaboration.pipeline import Collaboration
from fewstep.files.pictures import to_picture
from fewstep.files.prompt_files import read_prompt_file
from fewstep.rewards.attribute_reader import AttributeReader
from tests.tiny_control import KINDS, pictures, write_control
from tests.tiny_diffusion import CAPTIONS, unet, write_pipeline

SETTINGS = ["--student-steps", "1", "--teacher-steps", "2", "--teacher-scale", "2", "--batch-size", "3"]
COLOURS = ("red", "green", "blue", "white")
NUM = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline, control networks, a reader of colours as it is made, and prompts with pictures for a control."""
    folder = tmp_path_factory.mktemp("control")
    torch.manual_seed(0)
    reader = AttributeReader({"colour": list(COLOURS)}, "convnext_atto", {"depths": [1] * 4, "dims": [8] * 4}, 32)
    reader.save_pretrained(folder / "reader")
    for kind in KINDS:
        write_control(folder / kind, kind)
    write_control(folder / "wide", "controlnet", like=unet(cross_attention_dim=24))
    for number, image in enumerate(pictures(NUM)):
        to_picture(image).save(folder / f"{number}.png")
    write_prompts(folder / "prompts.jsonl", control="{}.png")
    write_pipeline(folder / "pipeline", "sd_v")
    return folder


def write_prompts(file, **more):
    rows = [
        {"prompt": CAPTIONS[n], "key": f"{n}", "attributes": {"colour": COLOURS[n]}}
        | {name: value.format(n) for name, value in more.items()}
        for n in range(NUM)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def command(name, folder, *more):
    given = ["--teacher", folder / "pipeline", "--oracle", f"attributes={folder / 'reader'}"]
    given += ["--prompts", folder / "prompts.jsonl", *SETTINGS]
    return [name, *map(str, (folder / "pipeline", *given, *more))]


@pytest.mark.parametrize("kind", KINDS)
def test_drawings_are_those_of_the_class(folder, tmp_path, capsys, kind):
    known, control = tmp_path / "c.json", ["--control", folder / kind]
    assert main(command("calibrate", folder, *control, "--out", known, "--repair", "regenerate")) == 0
    assert "control of the teacher" in Calibration.load(known).about
    argv = command("draw", folder, *control, "--calibration", known, "--k", 50, "--out", tmp_path / "out")
    assert main(argv) == 0
    prompts = read_prompt_file(folder / "prompts.jsonl")
    pipe = Collaboration.from_pretrained(
        folder / "pipeline", folder / "pipeline", f"attributes={folder / 'reader'}", known, student_steps=1,
        teacher_steps=2, teacher_scale=2.0, batch_size=3, control=folder / kind,
    )  # fmt: skip
    told = [prompt.text for prompt in prompts], [f"0:{prompt.key}" for prompt in prompts]
    shown, asked = pictures(NUM).add(1).mul(127.5).round().div(127.5).sub(1), [prompt.attributes for prompt in prompts]
    result = pipe(*told, k=50, asked=asked, controls=shown)
    assert 0 < result.repaired.sum() < NUM
    assert (pipe(*told, k=50, asked=asked, controls=shown.flip(0)).images - result.images).abs().mean() > 1e-3
    for prompt, image in zip(prompts, result.images, strict=True):
        assert Image.open(tmp_path / "out" / f"{prompt.key}.png").tobytes() == to_picture(image).tobytes()
    capsys.readouterr()
    assert main(argv) == 0
    changed = tmp_path / "changed"
    changed.mkdir()
    for number in range(NUM):
        (changed / f"{number}.png").write_bytes((folder / f"{(number + 1) % NUM}.png").read_bytes())
    assert main([*argv, "--images", str(changed)]) == 2
    assert "has 0.png of 'a red square', which is asked for otherwise now" in capsys.readouterr().err
    plain = ["--prompts", write_prompts(changed / "p.jsonl"), "--calibration", known, "--k", 50]
    assert main(command("draw", folder, *plain, "--out", tmp_path / "plain")) == 2
    assert "is of control of the student" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("control", "field", "told"),
    [
        (None, "{}.png", "prompt 0 has a `control`, and no network reads it: give --control, or leave it out"),
        ("controlnet", None, "prompt 0 has no `control`, which --control reads; name its file in a .jsonl"),
        ("controlnet", "none.png", "none.png does not exist"),
        ("controlnet", "../{}.png", "prompt 0 has the control '../0.png', which leaves the folder"),
        ("controlnet", " ", "line 1: its control is no name of a file"),
        ("wide", "{}.png", "the ControlNetModel has cross_attention_dim 24, this UNet needs 16; take one made for it"),
        ("pipeline/unet", "{}.png", "holds a UNet2DConditionModel; supported are ControlNetModel and T2IAdapter"),
        ("nowhere", "{}.png", "nowhere"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, capsys, control, field, told):
    prompts = write_prompts(tmp_path / "prompts.jsonl", **({} if field is None else {"control": field}))
    more = [] if control is None else ["--control", folder / control, "--images", folder]
    argv = command("calibrate", folder, *more, "--out", tmp_path / "c.json")
    assert main([*argv, "--prompts", str(prompts)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error
    assert not (tmp_path / "c.json").exists()
