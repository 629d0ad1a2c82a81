"""Edits from the shell: pictures of a folder, their strength, and what is refused."""

import json
import math

import pytest
import torch
from PIL import Image

from fewstep.collaboration.__main__ import main
from fewstep.collaboration.calibration import Calibration
from fewstep.collaboration.given import PictureFiles
from fewstep.collaboration.oracles import load_oracle
from fewstep.collaboration.pipeline import Collaboration
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rollback import EditStrength
from fewstep.files.pictures import read_picture, to_picture
from fewstep.files.prompt_files import read_prompt_file
from fewstep.rewards.attribute_reader import AttributeReader
from tests.tiny_diffusion import CAPTIONS, batch, write_pipeline

SETTINGS = ["--student-steps", "2", "--teacher-steps", "2", "--teacher-scale", "2", "--batch-size", "2"]
COLOURS = ("red", "green", "blue", "white")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline, a reader of colours as it is made, five wide pictures, and prompts that change their colours."""
    folder = tmp_path_factory.mktemp("edits")
    torch.manual_seed(0)
    reader = AttributeReader({"colour": list(COLOURS)}, "convnext_atto", {"depths": [1] * 4, "dims": [8] * 4}, 32)
    reader.save_pretrained(folder / "reader")
    (folder / "pictures").mkdir()
    for number, image in enumerate(batch(range(5))["image"]):
        to_picture(image).resize((40, 20)).save(folder / "pictures" / f"{number}.png")
    write_prompts(folder / "edits.jsonl", image="pictures/{}.png")
    write_pipeline(folder / "pipeline", "sd_v")
    return folder


def write_prompts(file, **more):
    rows = [
        {"prompt": CAPTIONS[(n + 1) % 4], "key": f"{n}", "attributes": {"colour": COLOURS[(n + 1) % 4]}}
        for n in range(5)
    ]
    told = [row | {name: value.format(n) for name, value in more.items()} for n, row in enumerate(rows)]
    file.write_text("".join(json.dumps(row) + "\n" for row in told))
    return file


def command(name, folder, *more):
    given = ["--teacher", folder / "pipeline", "--oracle", f"attributes={folder / 'reader'}"]
    given += ["--prompts", folder / "edits.jsonl", *SETTINGS]
    return [name, *map(str, (folder / "pipeline", *given, *more))]


@pytest.fixture(scope="module")
def calibrated(folder):
    out = folder / "calibration.json"
    assert main(command("calibrate", folder, "--edit-time", 0.5, "--out", out, "--repair", "regenerate")) == 0
    return out


def test_edits_are_those_of_the_class_and_go_on_where_they_stopped(folder, calibrated, tmp_path, capsys):
    known = Calibration.load(calibrated)
    assert known.about["edit strength"] == "time 0.5"
    assert known.costs.encode > 0
    argv = command(
        "draw", folder, "--calibration", calibrated, "--edit-time", 0.5, "--k", 50, "--out", tmp_path / "out"
    )
    assert main(argv) == 0
    prompts = read_prompt_file(folder / "edits.jsonl")
    pipe = Collaboration.from_pretrained(
        folder / "pipeline", folder / "pipeline", f"attributes={folder / 'reader'}", calibrated, student_steps=2,
        teacher_steps=2, teacher_scale=2.0, batch_size=2, edit=EditStrength(0.5, "time"),
    )  # fmt: skip
    shown = torch.cat([read_picture(folder / prompt.image, 16) for prompt in prompts])
    texts, asked = [prompt.text for prompt in prompts], [prompt.attributes for prompt in prompts]
    result = pipe(texts, [f"0:{prompt.key}" for prompt in prompts], k=50, asked=asked, sources=shown)
    assert 0 < result.repaired.sum() < 5
    for prompt, image in zip(prompts, result.images, strict=True):
        drawn = Image.open(tmp_path / "out" / f"{prompt.key}.png")
        assert drawn.tobytes() == to_picture(image).tobytes()
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    passes = pipe.passes(result, pipe.chosen(k=50))
    assert [row["passes"] for row in rows] == pytest.approx(passes.tolist(), abs=1e-4)
    assert min(row["passes"] for row in rows) == pytest.approx(pipe.costs.judged_draft + pipe.costs.encode, abs=1e-4)
    before = (tmp_path / "out" / "3.png").read_bytes()
    (tmp_path / "out" / "3.png").unlink()
    assert main(argv) == 0
    assert (tmp_path / "out" / "3.png").read_bytes() == before
    capsys.readouterr()


def test_another_picture_under_the_same_name_is_noticed(folder, calibrated, tmp_path, capsys):
    changed = tmp_path / "changed"
    changed.mkdir()
    for number in range(5):
        (changed / f"{number}.png").write_bytes((folder / "pictures" / f"{number}.png").read_bytes())
    prompts = write_prompts(tmp_path / "prompts.jsonl", image="{}.png")
    argv = command("draw", folder, "--calibration", calibrated, "--edit-time", 0.5, "--k", 0, "--out", tmp_path / "out")
    argv += ["--prompts", str(prompts), "--images", str(changed)]
    assert main(argv) == 0
    assert main(argv) == 0
    Image.new("RGB", (20, 20), "red").save(changed / "2.png")
    capsys.readouterr()
    assert main(argv) == 2
    assert "has 2.png of 'a white square', which is asked for otherwise now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "prompt 0 has an `image`, and nothing is edited: give --edit-variance, or leave it out"),
        (["--edit-time", "0.4"], "the calibration is of edit strength time 0.5, this is time 0.4; calibrate again"),
        (["--edit-variance", "0.5"], "is of edit strength time 0.5, this is variance 0.5; calibrate again"),
        (["--edit-variance", "1.5"], "edit_variance=1.5: must be inside (0, 1); towards 0 the picture stays"),
        (["--images", "pictures"], "--images pictures is for edits: give --edit-variance or --edit-time, or --control"),
        (["--edit-time", "0.5", "--images", "none"], "the picture none/pictures/0.png does not exist"),
    ],
)
def test_mistakes_are_one_line(folder, calibrated, tmp_path, capsys, more, told):
    plain = tmp_path / "plain.json"
    content = json.loads(calibrated.read_text())
    if not more:  # a calibration of drawings
        del content["about"]["edit strength"]
    plain.write_text(json.dumps(content))
    argv = command("draw", folder, "--calibration", plain, "--k", 50, "--out", tmp_path / "out", *more)
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({}, "prompt 0 has no `image`, which is to be edited; name its file in a .jsonl"),
        ({"image": "edits.jsonl"}, "edits.jsonl is not a picture of PNG, JPEG"),
        ({"image": "/etc/hosts"}, "prompt 0 has the image '/etc/hosts', which leaves the folder"),
        ({"image": "pictures/../../{}.png"}, "prompt 0 has the image 'pictures/../../0.png', which leaves the folder"),
        ({"image": ""}, "line 1: its image is no name of a file"),
    ],
)
def test_prompts_without_a_picture_are_one_line(folder, tmp_path, capsys, row, told):
    prompts = write_prompts(tmp_path / "prompts.jsonl", **row)
    argv = command("calibrate", folder, "--edit-time", 0.5, "--out", tmp_path / "c.json", "--images", folder)
    assert main([*argv, "--prompts", str(prompts)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error
    assert not (tmp_path / "c.json").exists()


def test_a_rollback_deeper_than_the_edit_is_one_line(folder, tmp_path, capsys):
    depths = ["--edit-variance", 0.3, "--rollback-variance", 0.4]
    assert main(command("calibrate", folder, *depths, "--out", tmp_path / "c.json")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "rollback_variance=0.4 is deeper, t = " in error
    assert "by edit_variance=0.3; give at most that" in error
    assert not (tmp_path / "c.json").exists()


def test_what_is_edited_is_swept_timed_and_analysed_as_it_is_drawn(folder, calibrated, tmp_path, capsys):
    """Ways of a sweep are edits of the given pictures, and cost their encoding; so are pairs of an analysis."""
    torch.manual_seed(1)
    settings = {"trunk": "convnext_atto", "trunk_options": {"depths": [1] * 4, "dims": [8] * 4}, "image_size": 32}
    for name in "ab":
        AttributeReader({"colour": list(COLOURS)}, **settings).save_pretrained(tmp_path / name)
    first, second = (f"attributes={tmp_path / name}" for name in "ab")
    known, edit = ["--calibration", calibrated], ["--edit-time", 0.5]
    more = ["--rollbacks", 0.2, "--best-of", 2, "--teachers", 2, "--judge", first, "--out", tmp_path / "sweep"]
    assert main(command("sweep", folder, *known, *edit, *more)) == 0
    rows = [json.loads(line) for line in (tmp_path / "sweep" / "sweep.jsonl").read_text().splitlines()][1:]
    ways = {row["name"]: row for row in rows}
    prompts = read_prompt_file(folder / "edits.jsonl")
    pipe = Collaboration.from_pretrained(
        folder / "pipeline", folder / "pipeline", f"attributes={folder / 'reader'}", calibrated, student_steps=2,
        teacher_steps=2, teacher_scale=2.0, batch_size=2, edit=EditStrength(0.5, "time"),
    )  # fmt: skip
    shown = torch.cat([read_picture(folder / prompt.image, 16) for prompt in prompts])
    texts, asked = [prompt.text for prompt in prompts], [prompt.attributes for prompt in prompts]
    seeds, policy = [f"0:{prompt.key}" for prompt in prompts], Policy(math.inf, "regenerate")
    result = pipe(texts, seeds, policy=policy, asked=asked, sources=shown)
    judge = load_oracle(first)
    for name, images in (("student", result.draft_images), ("teacher 2", result.images)):
        assert ways[name]["values"][first] == pytest.approx(judge(images, asked).tolist(), abs=1e-4)
    costs = pipe.costs
    assert ways["student"]["passes"] == pytest.approx(costs.encode + costs.draft + costs.decode)
    assert ways["teacher 2"]["passes"] == pytest.approx(costs.encode + costs.repair + costs.decode)
    capsys.readouterr()
    out = ["--judge", first, "--judge", second, "--distance", "pixels", "--out", tmp_path / "analysis"]
    assert main(command("analyse", folder, *edit, *out)) == 0
    pairs = [json.loads(line) for line in (tmp_path / "analysis" / "pairs.jsonl").read_text().splitlines()]
    assert [row["judges"][first]["teacher"] for row in pairs] == pytest.approx(
        ways["teacher 2"]["values"][first], abs=1e-4
    )
    assert [row["judges"][first]["student"] for row in pairs] == pytest.approx(
        ways["student"]["values"][first], abs=1e-4
    )
    assert "curvature" not in pairs[0]["covariates"]
    assert main(command("analyse", folder, *edit, *out, "--curvature-steps", 2, "--overwrite")) == 2
    assert "edits begin in a picture, and curvature is of a trajectory from noise: give" in capsys.readouterr().err
    plain = tmp_path / "refine.json"
    assert main(command("calibrate", folder, *edit, "--out", plain, "--rollback-time", 0.3)) == 0
    assert main(command("bench", folder, *edit, "--calibration", plain, "--k", 50, "--repeats", 1)) == 0
    assert "; ratio " in capsys.readouterr().out
    assert main(command("sweep", folder, *known, *edit, "--out", tmp_path / "deep", "--rollbacks", 0.9)) == 2
    assert "rollback_variance=0.9 is deeper, t = " in capsys.readouterr().err
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("name", ["sweep", "bench", "analyse"])
def test_pictures_that_nobody_edits_are_one_line_everywhere(folder, calibrated, tmp_path, capsys, name):
    more = {"bench": ["--k", 50]}.get(name, ["--out", tmp_path / "out"])
    more += ["--judge", "clip", "--judge", "aesthetic=a"] if name == "analyse" else ["--calibration", calibrated]
    assert main(command(name, folder, *more)) == 2
    assert "prompt 0 has an `image`, and nothing is edited" in capsys.readouterr().err


def test_files_are_read_as_they_are_asked_for(folder):
    files = PictureFiles([folder / "pictures" / f"{number}.png" for number in range(5)], (16, 8))
    assert len(files) == 5
    assert files[[3, 1]].shape == (2, 3, 16, 8)
    assert torch.equal(files[[3, 1]][1:], read_picture(folder / "pictures" / "1.png", (16, 8)))
