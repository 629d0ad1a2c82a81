"""Pictures of 16 x 32 px from shards to edits: each stage trains a few steps, and the next one reads what it left."""

import json
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

import train
from datamodules import ImageTextDataModule
from datamodules.prepare.__main__ import main as prepare
from fewstep.backbones import diffusers_network, load_autoencoder, load_guided_network, load_latent_diffusion
from fewstep.diffusion.latent_space import LatentSpace
from fewstep.distillation.students import StudentOptions
from fewstep.icd import __main__ as icd
from fewstep.icd.pair import Editing, InvertibleConsistency
from fewstep.rng import PerSampleRng
from lightning_modules import AutoencoderModule, DiffusionTeacherModule, GuidanceDistillationModule, ICDModule
from tests.datamodules.picture_shards import write_folder
from tests.tiny_diffusion import AUTOENCODER, SDXL_UNET, unet, write_pipeline, write_text_encoder
from tests.tiny_pipeline import CHOSEN, measured

ROOT = Path(train.__file__).parent
SIZE, LATENTS = (16, 32), (8, 16)
SCALES = (1.0, 4.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("rectangles")


@pytest.fixture(scope="module")
def shards(root):
    """Their pictures are squares: each is cut to the middle half of its height."""
    folder = write_folder(root / "shards", [8])
    write_folder(folder, [4], "val", first=100)
    return str(write_folder(folder, [10], "test", first=200))


def fit(root, module, shards, **options):
    """Two steps between validations, on what train.py would give for --data.image_size "[16, 32]"."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    runner = L.Trainer(accelerator="cpu", default_root_dir=root, max_steps=2, **quiet)
    sizes = {"batch_size": 4, "eval_batch_size": 4, "num_workers": 0}
    runner.fit(module, ImageTextDataModule(shards, list(SIZE), **sizes, **options))
    return module


@pytest.fixture(scope="module")
def autoencoder(root, shards):
    model = diffusers_network("AutoencoderKL", AUTOENCODER | {"sample_size": list(SIZE)})
    fit(root, AutoencoderModule(model, export_dtype="float32"), shards).export(str(root / "vae"))
    return str(root / "vae")


@pytest.fixture(scope="module")
def trained(root, shards, autoencoder):
    """A teacher, from latents that were stored beforehand."""
    text, stored = write_text_encoder(root / "text"), str(root / "latents")
    encoders = ["--autoencoder", autoencoder, "--text-encoder", text]
    assert prepare(["latents", "--data", shards, *encoders, "--size", "16x32", "--out", stored]) == 0
    network = unet(sample_size=list(LATENTS))
    module = DiffusionTeacherModule(network, autoencoder, text, sampling_steps=1, export_dtype="float32")
    return fit(root, module, stored, arrays=["latent", "prompt"])


@pytest.fixture(scope="module")
def pipeline(root, trained):
    trained.export(str(root / "sd"))
    return str(root / "sd")


@pytest.fixture(scope="module")
def guided(root, shards, pipeline):
    module = GuidanceDistillationModule(pipeline, None, SCALES, 16, export_dtype="float32")
    fit(root, module, shards).export(str(root / "guided"))
    return str(root / "guided")


@pytest.fixture(scope="module")
def export(root, shards, pipeline, guided):
    module = fit(root, ICDModule(pipeline, guided, students=StudentOptions(rank=2)), shards)
    (root / "export").mkdir()
    module.export(str(root / "export"))
    return str(root / "export")


def plain(folder, **parts):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, **parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_an_autoencoder_of_rectangles_is_exported_as_any(autoencoder):
    space, images = LatentSpace(load_autoencoder(autoencoder)), torch.rand(2, 3, *SIZE)
    assert space.encode(images).shape == (2, 4, *LATENTS)
    assert space.decode(space.encode(images)).shape == images.shape


def test_plain_diffusers_draws_the_teachers_rectangles_by_default(trained, pipeline):
    assert json.loads(Path(pipeline, "unet", "config.json").read_text())["sample_size"] == list(LATENTS)
    theirs = plain(pipeline)
    assert theirs("red", num_inference_steps=1, output_type="np").images.shape == (1, *SIZE, 3)
    model = load_latent_diffusion(pipeline)
    assert (model.sample_size, model.image_size) == (LATENTS, SIZE)
    ours = trained.cpu().generate_images(["red"], PerSampleRng(0, ["a"]), 2, 3.0)
    noise = PerSampleRng(0, ["a"]).normal(4, *LATENTS)
    options = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt"}
    torch.testing.assert_close(ours / 2 + 0.5, theirs("red", latents=noise, **options).images, atol=1e-4, rtol=0)


def test_the_guided_network_keeps_their_size(pipeline, guided):
    network, scales = load_guided_network(guided)
    assert (list(network.config.sample_size), scales) == (list(LATENTS), SCALES)
    image = plain(pipeline, unet=network)("red", num_inference_steps=1, guidance_scale=4.0, output_type="np").images
    assert image.shape == (1, *SIZE, 3)


@pytest.fixture
def edit(export, tmp_path, monkeypatch, capsys):
    """Runs python -m fewstep.icd on a picture of 80 x 40 (width x height), whose left half a mask leaves alone."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.linspace(0, 255, 80 * 40 * 3).reshape(40, 80, 3).astype(np.uint8)).save("wide.png")
    mask = Image.new("L", (80, 40))
    mask.paste(255, (40, 0, 80, 40))
    mask.save("right.png")
    texts = {"edit": ["--source", "a red square", "--target", "a blue square", "--image", "wide.png"]}
    texts |= {"invert": texts["edit"][:2] + texts["edit"][4:], "generate": ["--prompt", "a red square"]}

    def run(command, *arguments, code=0):
        capsys.readouterr()
        assert icd.main([command, export, *texts[command], *arguments]) == code
        return capsys.readouterr().err

    return run


def pixels(name):
    return np.asarray(Image.open(name)).astype(int)


def test_the_command_line_edits_a_rectangle_with_every_tool(edit):
    attention = ["--backend", "prompt_to_prompt", "--guidance-scale", "4", "--blend", "--amplify", "3"]
    edit("edit", *attention, "--replay", "--mask", "right.png", "--steps-sheet", "steps.png")
    assert Image.open("edit.png").size == SIZE[::-1]
    assert Image.open("steps.png").width == 6 * (10 * SIZE[1] + 8) + 8  # the source, four steps, the result
    edit("invert", "--code", "code.safetensors")
    edit("generate", "--code", "code.safetensors", "--guidance-scale", "1")
    assert (pixels("generate.png") == pixels("invert.png")).all()
    assert pixels("generate.png").shape == (*SIZE, 3)
    edit("edit", "--size", "32x16", "--guidance-scale", "4", "--out", "high.png")
    assert Image.open("high.png").size == SIZE
    told = edit("generate", "--size", "32x16", "--code", "code.safetensors", code=2)
    assert "the code has shape [1, 4, 8, 16], this pair's [1, 4, 16, 8]" in told
    assert "in multiples of 2 px, not 15 x 32 (height x width)" in edit("edit", "--size", "15x32", code=2)


def test_a_mask_keeps_the_half_that_it_names(export, monkeypatch):
    pair = InvertibleConsistency.load(export)
    assert json.loads(Path(export, "icd.json").read_text())["image_size"] == list(pair.model.image_size) == list(SIZE)
    image, mask = torch.rand(1, 3, *SIZE) * 2 - 1, torch.zeros(1, 1, *SIZE)
    mask[..., SIZE[1] // 2 :] = 1
    monkeypatch.setattr(pair.model.latents, "decode", lambda latents: latents)
    before = pair.model.latents.encode(image)
    words = ["a red square"], ["a blue square"]
    after = pair.edit(image, *words, PerSampleRng(0, ["a"]), Editing(guidance_scale=4.0), mask)
    changed = (after - before).abs().amax((0, 1))
    assert changed[:, : LATENTS[1] // 2].max() == 0
    assert changed[:, LATENTS[1] // 2 :].min() > 0
    with pytest.raises(ValueError, match=r"images must be \[B, 3, 16, 32\], got \[1, 3, 32, 16\]; resize them"):
        pair.encode(image.transpose(2, 3), ["a"], PerSampleRng(0, ["a"]))


def test_the_page_answers_with_rectangles(export):
    from fewstep.demo.answers import Answers

    answers = Answers(InvertibleConsistency.load(export))
    upload = Image.new("RGB", (90, 90), (200, 10, 10))
    for picture, steps, _ in (answers.generate("a red square", 4.0, 1.0, 0), answers.invert(upload, "a square", 0)):
        assert {picture.size, *(step.size for step, _ in steps)} == {SIZE[::-1]}


def test_evaluate_measures_a_pipeline_of_rectangles(pipeline, shards, tmp_path, monkeypatch, capsys):
    import evaluate

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = [pipeline, "--data", shards, *CHOSEN, "--metrics.kid.subset_size=5", "--steps", "1"]
    assert evaluate.main([*arguments, "--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    (run,) = measured(tmp_path / "out")
    assert run["data"]["init_args"]["image_size"] == list(SIZE)
    assert run["protocol"]["test/clip_score"]["num_generated"] == 10


def test_sdxl_is_asked_for_its_rectangles(tmp_path):
    """Its own pipeline multiplies a [height, width] by a number, so both are given."""
    from commands.evaluate.pipeline import PipelineModule
    from fewstep.backbones import load_pipeline

    folder = write_pipeline(tmp_path / "xl", "sdxl", unet(**SDXL_UNET, sample_size=list(LATENTS)))
    module = PipelineModule(load_pipeline(folder), steps=1)
    batch = {"key": ["a", "b"], "caption": ["red", "blue"], "weight": torch.tensor([1.0, 0.0])}
    assert module.test_step(batch, 0)["image"].shape == (2, 3, *SIZE)


def test_students_of_a_pipeline_of_squares_are_trained_on_rectangles(root, shards, tmp_path):
    """SDXL is told of them, and the export says so; without image_size the first batch is refused."""
    square = write_pipeline(tmp_path / "xl", "sdxl", unet(**SDXL_UNET))
    stage = GuidanceDistillationModule(square, None, SCALES, 16, export_dtype="float32", image_size=SIZE)
    assert stage.hparams.image_size == list(SIZE)
    fit(root, stage, shards).export(str(tmp_path / "guided"))
    places = square, str(tmp_path / "guided")
    with pytest.raises(ValueError, match="pictures of 16 x 32 px, but the network is told 16; give image_size"):
        fit(root, ICDModule(*places, students=StudentOptions(rank=2)), shards)
    module = fit(root, ICDModule(*places, students=StudentOptions(rank=2), image_size=SIZE), shards)
    assert module.hparams.image_size == list(SIZE)
    module.export(str(tmp_path))
    pair = InvertibleConsistency.load(tmp_path)
    assert pair.model.prompts.null_condition()["time_ids"].tolist() == [[16, 32, 0, 0, 16, 32]]
    assert pair.generate(["red"], PerSampleRng(0, ["a"]), 4.0).shape == (1, 3, *SIZE)
    assert InvertibleConsistency.load(tmp_path, image_size=16).model.image_size == (16, 16)


def test_train_takes_two_numbers_and_keeps_them_plain(shards, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    small = {**AUTOENCODER, "sample_size": list(SIZE)}
    given = [
        "fit",
        "-c",
        "configs/diffusion_teacher/autoencoder_emoji.yaml",
        "--data.path",
        shards,
        "--wandb",
        "disabled",
    ]
    given += ["--model.model.init_args.config", json.dumps(small), "--model.perceptual", "null", "--num_threads", "1"]
    given += ["--data.splits", "{}", "--data.batch_size", "4", "--data.num_workers", "0", "--trainer.max_steps", "2"]
    given += ["--run_dir", str(tmp_path / "run"), "--trainer.accelerator", "cpu"]
    for size, told in (
        ("[16]", "image_size: expected int; expected tuple with 2 elements; got '[16]' (on the command line)"),
        ("1.5", "image_size: expected int; expected tuple; got '1.5' (on the command line)"),
        ("[16, 0]", "image_size=(16, 0): give one whole number from 1, for a square, or [height, width]"),
        ("0", "image_size=0: give one whole number from 1"),
    ):
        assert train.main([*given, "--data.image_size", size]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
        assert not (tmp_path / "run").exists()
    assert train.main([*given, "--data.image_size", "[16, 32]"]) == 0, capsys.readouterr().err
    stored = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["datamodule_hyper_parameters"]["image_size"] == list(SIZE)
