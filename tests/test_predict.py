"""`train.py predict`: from a checkpoint and pictures to pictures, as a user starts it."""

import os
from pathlib import Path

import lightning
import numpy as np
import pytest
import yaml
from PIL import Image

import train
from tests.forks import finish, two_ranks

ROOT = Path(train.__file__).parent
EDIT = str(ROOT / "configs/icd/edit.yaml")
SMALL = ["--data.image_size", "8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose averaged weights differ from its last ones, as EMA keeps them."""
    folder = tmp_path_factory.mktemp("trained")
    config = {
        "model": {"class_path": "tests.tiny_editor.TinyEditor"},
        "data": {"class_path": "tests.callbacks.tiny_run.TinyData"},
        "trainer": {"accelerator": "cpu", "max_steps": 3},
        "callbacks": {"checkpoint": None},
        "wandb": "disabled",
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    run = folder / "run"
    assert train.main(["fit", "-c", str(folder / "tiny.yaml"), "--run_dir", str(run), "--test_after_fit", "false"]) == 0
    return run / "checkpoints" / "last.ckpt"


@pytest.fixture
def predict(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (30, 20), (10, 10, 10)).save("cat.png")
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    os.link(trained, checkpoint)
    os.link(trained.parents[1] / "config.yaml", tmp_path / "run" / "config.yaml")

    def predict(*arguments):
        given = ["predict", "-c", EDIT, "--ckpt_path", "run/checkpoints/last.ckpt", "--trainer.accelerator", "cpu"]
        return train.main([*given, *SMALL, *arguments])

    return predict


CAT = ["--data.image", "cat.png", "--data.source", "a cat", "--data.target", "a dog"]


def pictures():
    return {path.name: np.asarray(Image.open(path)) for path in Path("run/predictions").glob("*.png")}


def test_one_command_edits_a_picture(predict, capsys):
    """The model is that of the run; nobody names it."""
    assert predict(*CAT) == 0, capsys.readouterr().err
    assert sorted(pictures()) == ["cat.png", "sheet.png"]
    assert pictures()["cat.png"].shape == (8, 8, 3)
    assert pictures()["cat.png"].min() > 100
    assert "pictures  run/predictions/cat.png" in capsys.readouterr().out
    assert sorted(path.name for path in Path("run").iterdir()) == ["checkpoints", "config.yaml", "predictions"]


def test_a_picture_is_cut_to_the_models_rectangle(predict, capsys):
    assert predict(*CAT, "--data.image_size", "[8, 20]") == 0, capsys.readouterr().err
    assert pictures()["cat.png"].shape == (8, 20, 3)


def test_options_of_editing_are_flags(predict, capsys):
    assert predict(*CAT, "--model.editing.factor", "0") == 0, capsys.readouterr().err
    assert pictures()["cat.png"].max() == 10
    assert predict(*CAT, "--model.editing.factor", "-1") == 2
    assert "factor is -1; give 0 or more" in capsys.readouterr().err


def test_a_reconstruction_a_mask_and_a_prompt(predict):
    assert predict(*CAT[:4]) == 0
    assert pictures()["cat.png"].max() == 10
    Image.new("L", (30, 20), 0).save("mask.png")
    assert predict(*CAT, "--data.mask", "mask.png") == 0
    assert pictures()["cat-2.png"].max() == 10
    Path("prompts.txt").write_text("a cat\na dog\n")
    assert predict("--data.prompts", "prompts.txt") == 0
    assert {"1-a-cat.png", "2-a-dog.png", "sheet-3.png"} <= pictures().keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.image", "no.png", "--data.source", "x"], "the request: image no.png does not exist"),
        ([], "give one of: image with source and target"),
        ([*CAT, "--data.prompts", "p.txt"], "given are image, source, target, prompts"),
        ([*CAT[:2], "--data.source", "a cat of so many words"], "the prompt 'a cat of so many words' is too long"),
        ([*CAT, "--data.sorce", "x"], "unknown key 'data.sorce'; nearest valid key: 'data.source'"),
        ([*CAT, "--ckpt_path", "no.ckpt"], "no.ckpt does not exist; give RUN/checkpoints/NAME.ckpt"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_nothing(predict, capsys, arguments, message):
    capsys.readouterr()
    assert predict(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("run/predictions").exists()


def test_a_checkpoint_without_its_run_needs_a_config(predict, capsys):
    os.link("run/checkpoints/last.ckpt", "lonely.ckpt")
    assert predict(*CAT, "--ckpt_path", "lonely.ckpt") == 2
    message = "config.yaml does not exist; give RUN/checkpoints/NAME.ckpt, or -c with the run's config"
    assert message in capsys.readouterr().err
    model = ["--model", "tests.tiny_editor.TinyEditor"]
    assert predict(*CAT, "--ckpt_path", "lonely.ckpt", "--run_dir", "run", *model) == 0
    assert "cat.png" in pictures()


@pytest.mark.slow
def test_two_processes_write_what_one_does(predict):
    Path("prompts.txt").write_text("a\nb\nc\n")
    two = ["-c", str(ROOT / "configs/trainer/ddp.yaml"), "--trainer.devices", "2", "--trainer.accelerator", "cpu"]
    given = ["predict", "-c", EDIT, "--ckpt_path", "run/checkpoints/last.ckpt", *SMALL, "--data.prompts", "prompts.txt"]
    assert finish(two_ranks("train", [*given, *two], Path.cwd())).count("pictures  3 in run/predictions") == 1
    assert sorted(pictures()) == ["1-a.png", "2-b.png", "3-c.png", "sheet.png"]


@pytest.mark.slow
def test_a_distilled_pair_edits_and_generates(tmp_path, monkeypatch, capsys):
    """ICDModule itself, with random students of a random pipeline."""
    from fewstep.distillation.students import StudentOptions
    from fewstep.files.pictures import read_picture, to_picture
    from lightning_modules.icd import ICDModule
    from tests.tiny_diffusion import batch
    from tests.tiny_export import SCALES, write_export

    monkeypatch.chdir(tmp_path)
    write_export(tmp_path)
    Image.fromarray(((batch([0])["image"][0] + 1) * 127.5).byte().permute(1, 2, 0).numpy()).save("cat.png")
    options = {"pipeline": "pipeline", "network": "guided", "guidance_scales": list(SCALES)}
    config = {
        "model": {"class_path": "lightning_modules.icd.ICDModule", "init_args": options | {"students": {"rank": 2}}}
    }
    options["students"] = StudentOptions(rank=2)
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(ICDModule(**options))
    trainer.save_checkpoint("run/checkpoints/last.ckpt")
    given = ["predict", "-c", EDIT, "--ckpt_path", "run/checkpoints/last.ckpt", "--trainer.accelerator", "cpu"]
    given += ["--data.image_size", "16"]
    edit = [*CAT[:2], "--data.source", "a red square", "--data.target", "a red square"]
    same = ["--model.editing.guidance_scale", "1", "--model.editing.replay", "true"]
    assert train.main([*given, *edit, *same]) == 0, capsys.readouterr().err
    latents = ICDModule(**options).pair.model.latents
    kept = to_picture(latents.decode(latents.encode(read_picture("cat.png", 16))))
    assert np.abs(pictures()["cat.png"].astype(int) - np.asarray(kept)).max() <= 1  # replay gives the latents back
    Path("prompts.txt").write_text("a red square\n")
    assert train.main([*given, "--data.prompts", "prompts.txt"]) == 0, capsys.readouterr().err
    assert pictures()["1-a-red-square.png"].shape == (16, 16, 3)
    assert train.main([*given, *edit, "--model.editing.guidance_scale", "5"]) == 2
    assert "guidance_scale 5 was not trained; choose one of 1, 4, 12" in capsys.readouterr().err
    assert train.main([*given, *edit[:4], "--data.image_size", "32"]) == 2
    assert "images must be [B, 3, 16, 16], got [1, 3, 32, 32]; resize them" in capsys.readouterr().err
