"""Every kind of pipeline behind one interface draws what plain diffusers draws with it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fewstep.backbones import load_latent_diffusion, load_pipeline, load_prompt_encoder, save_guided_network
from fewstep.backbones.frozen_encoders import FrozenEncoders
from fewstep.diffusion.guidance import DynamicGuidance
from fewstep.diffusion.solvers import ddim, even_times
from tests.tiny_diffusion import CAPTIONS, KINDS, SDXL_UNET, batch, unet, write_pipeline

LONG = "a red square and " * 6


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    return {kind: write_pipeline(root / kind, kind) for kind in KINDS}


def plain(folder):
    from diffusers import DiffusionPipeline

    without = {"text_encoder_3": None, "tokenizer_3": None} if folder.endswith("without_t5") else {}
    pipeline = DiffusionPipeline.from_pretrained(folder, **without)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def arguments(pipeline, num_steps):
    """Those that make a pipeline's steps `even_times`."""
    if hasattr(pipeline, "transformer"):
        return {"sigmas": [1 - step / num_steps for step in range(num_steps)]}
    return {"num_inference_steps": num_steps}


def far(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("kind", KINDS)
def test_draws_what_plain_diffusers_draws(kind, guidance_scale, folders):
    pipeline, model = plain(folders[kind]), load_latent_diffusion(folders[kind])
    assert (model.sample_size, model.image_size) == ((8, 8), (16, 16))
    assert model.guidance_scales is None
    noise = torch.randn(2, model.latents.channels, 8, 8, generator=torch.Generator().manual_seed(3))
    options = {"prompt": CAPTIONS[:2], "guidance_scale": guidance_scale, **arguments(pipeline, 5)}
    theirs = pipeline(latents=noise.clone(), output_type="latent", **options).images
    drawn = {}
    with torch.no_grad():
        for scale in (guidance_scale, guidance_scale + 1):
            plan = (noise, even_times(5, 1.0, 0.0), model.prompts(CAPTIONS[:2]), DynamicGuidance(scale))
            drawn[scale] = ddim(model.denoiser(), model.parametrization, *plan)
    assert far(drawn[guidance_scale], theirs) < 1e-4
    assert far(drawn[guidance_scale + 1], theirs) > 1e-3  # the comparison can tell scales apart
    theirs = pipeline(latents=noise.clone(), output_type="pt", **options).images
    assert far(model.latents.decode(drawn[guidance_scale]) / 2 + 0.5, theirs) < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_draws_the_rectangles_that_plain_diffusers_draws(kind, folders):
    """SDXL's network is told the size, SD3's has positions."""
    pipeline, model = plain(folders[kind]), load_latent_diffusion(folders[kind], image_size=(16, 32))
    assert (model.sample_size, model.image_size) == ((8, 16), (16, 32))
    noise = torch.randn(2, model.latents.channels, 8, 16, generator=torch.Generator().manual_seed(3))
    options = {"prompt": CAPTIONS[:2], "guidance_scale": 4.0, "height": 16, "width": 32, **arguments(pipeline, 4)}
    theirs = pipeline(latents=noise.clone(), output_type="latent", **options).images
    drawn = {}
    with torch.no_grad():
        for told in ((16, 32), (32, 16)):
            prompts = load_prompt_encoder(folders[kind], image_size=told)
            plan = (noise, even_times(4, 1.0, 0.0), prompts(CAPTIONS[:2]), DynamicGuidance(4.0))
            drawn[told] = ddim(replace(model, prompts=prompts).denoiser(), model.parametrization, *plan)
    assert far(drawn[16, 32], theirs) < 1e-4
    if kind == "sdxl":
        assert far(drawn[32, 16], theirs) > 1e-4  # the comparison can tell height from width
    theirs = pipeline(latents=noise.clone(), output_type="pt", **options).images
    assert far(model.latents.decode(drawn[16, 32]) / 2 + 0.5, theirs) < 1e-3


def test_sdxl_is_told_of_a_rectangle_what_its_pipeline_tells(folders):
    pipeline, size = plain(folders["sdxl"]), (16, 32)
    told = pipeline._get_add_time_ids(size, (0, 0), size, torch.float32, text_encoder_projection_dim=20)
    for condition in (
        load_prompt_encoder(folders["sdxl"], image_size=size).null_condition(),
        load_latent_diffusion(folders["sdxl"], image_size=[16, 32]).prompts(CAPTIONS[:1]),
        FrozenEncoders(folders["sdxl"], folders["sdxl"], image_size=size).null_condition,
    ):
        assert torch.equal(condition["time_ids"], told)


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_network_made_for_rectangles_says_so(kind, folders, tmp_path):
    folder = changed(folders[kind], tmp_path, "unet/config.json", sample_size=[8, 16])
    assert load_latent_diffusion(folder).image_size == (16, 32)
    assert load_latent_diffusion(folder, image_size=8).image_size == (8, 8)
    if kind == "sdxl":
        assert load_prompt_encoder(folder).image_size == (16, 32)


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_states_are_those_of_encode_prompt(kind, folders):
    pipeline, encoder = plain(folders[kind]), load_prompt_encoder(folders[kind])
    several = {"prompt_2": None, "prompt_3": None} if kind.startswith("sd3") else {}
    with torch.no_grad():
        answers = pipeline.encode_prompt(
            CAPTIONS, **several, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True
        )
    ours, null = encoder(CAPTIONS), encoder.null_condition()
    assert (
        ours.keys()
        == null.keys()
        == {"sd": {"prompt"}, "sdxl": {"prompt", "pooled", "time_ids"}}.get(
            kind[:4].removesuffix("_v"), {"prompt", "pooled"}
        )
    )
    names = ["prompt", "pooled"] if len(answers) == 4 else ["prompt"]
    expected = dict(zip([(n, k) for n in names for k in ("given", "null")], answers, strict=True))
    for name in names:
        torch.testing.assert_close(ours[name], expected[name, "given"])
        torch.testing.assert_close(null[name].expand_as(ours[name]), expected[name, "null"])
    if kind == "sdxl":
        assert ours["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 4
        assert null["prompt"].abs().max() == 0


def test_the_null_prompt_of_sdxl_is_what_its_pipeline_says(tmp_path):
    folder = write_pipeline(tmp_path / "xl", "sdxl", force_zeros_for_empty_prompt=False)
    encoder = load_prompt_encoder(folder)
    torch.testing.assert_close(encoder.null_condition()["prompt"], encoder([""])["prompt"], rtol=0, atol=0)
    assert load_prompt_encoder(folder, image_size=64).null_condition()["time_ids"].tolist() == [[64, 64, 0, 0, 64, 64]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_longer_than_the_tokenizer_is_one_line(kind, folders):
    encoder = load_prompt_encoder(folders[kind])
    with pytest.raises(ValueError, match=r"prompt of \d+ tokens, at most 12; shorten 'a red"):
        encoder([CAPTIONS[0], LONG])
    cut, whole = encoder([LONG], truncate=True), encoder([CAPTIONS[0]])
    assert all(cut[name].shape == whole[name].shape for name in whole)
    assert encoder.length == 12


def test_t5_is_asked_about_its_own_length(folders):
    encoder = load_prompt_encoder(folders["sd3"])
    encoder.t5_length = 6
    with pytest.raises(ValueError, match="at most 6; shorten"):
        encoder([CAPTIONS[0]])


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_near_and_the_autoencoder_stays_whole(kind, folders):
    whole, half = (load_latent_diffusion(folders[kind], dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert {p.dtype for n in (half.network, *half.prompts.networks.values()) for p in n.parameters()} == {
        torch.bfloat16
    }
    assert {p.dtype for p in half.latents.autoencoder.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in half.network.parameters())
    x, t = torch.randn(2, half.latents.channels, 8, 8), torch.tensor([0.9, 0.3])
    with torch.no_grad():
        answers = [m.denoiser()(x, t, torch.tensor([2.0, 1.0]), m.prompts(CAPTIONS[:2])) for m in (whole, half)]
    assert answers[1].dtype == torch.float32
    assert far(answers[1], answers[0]) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_stored_conditions_stand_for_their_encoders(kind, folders):
    model, pictures = load_latent_diffusion(folders[kind]), batch(range(3))
    encoders = FrozenEncoders(model.latents, model.prompts)
    assert encoders.hashes.keys() == {"autoencoder", *model.prompts.networks}
    encoders.check_network(model.network.config)
    data, condition = encoders.read(pictures, training=False)
    stored = {**pictures, "latent": data.half()} | {n: condition[n][:, None].half() for n in encoders.stored_names}
    again, read = encoders.read(stored, training=True)
    torch.testing.assert_close(again, data, rtol=2e-3, atol=2e-3)
    assert read.keys() == condition.keys() == encoders.null_condition.keys()
    for name, value in condition.items():
        torch.testing.assert_close(read[name], value, rtol=2e-3, atol=2e-3)
    encoders.check_stored(stored)
    for name in encoders.stored_names:
        with pytest.raises(ValueError, match=f"the stored {name} of k0"):
            encoders.check_stored(stored | {name: -stored[name]})
    if "pooled" in stored:
        del stored["pooled"]
        with pytest.raises(ValueError, match="holds prompt, but not pooled"):
            encoders.read(stored, training=True)


def test_sdxl_pictures_have_the_size_it_is_told(folders):
    encoders = FrozenEncoders(folders["sdxl"], folders["sdxl"], image_size=32)
    with pytest.raises(ValueError, match="pictures of 16 x 16 px, but the network is told 32; give image_size"):
        encoders.read(batch(range(1)), training=False)
    encoders = FrozenEncoders(folders["sdxl"], folders["sdxl"], image_size=(16, 32))
    turned = {"image": torch.zeros(1, 3, 32, 16), "caption": CAPTIONS[:1]}
    with pytest.raises(ValueError, match=r"of 32 x 16 px, but the network is told 16 x 32 \(height x width\); give"):
        encoders.read(turned, training=False)
    data, condition = encoders.read(turned | {"image": torch.zeros(1, 3, 16, 32)}, training=False)
    assert data.shape == (1, 4, 8, 16)
    assert condition["time_ids"].tolist() == [[16, 32, 0, 0, 16, 32]]
    assert load_latent_diffusion(folders["sdxl"], image_size=32).sample_size == (16, 16)


def test_another_network_takes_the_place_of_the_pipelines_own(folders, tmp_path):
    other = unet(seed=5, time_cond_proj_dim=16)
    save_guided_network(tmp_path / "unet", other, [1, 8])
    model = load_latent_diffusion(folders["sd"], tmp_path / "unet")
    assert model.guidance_scales == (1.0, 8.0)
    for name, value in other.state_dict().items():
        assert torch.equal(model.network.state_dict()[name], value), name
    unet(**SDXL_UNET).save_pretrained(tmp_path / "xl")
    with pytest.raises(
        ValueError, match="network has cross_attention_dim=40, its autoencoder and text encoder need 16"
    ):
        load_latent_diffusion(folders["sd"], tmp_path / "xl")
    with pytest.raises(ValueError, match="network has in_channels=4, its autoencoder and text encoder need 16"):
        load_latent_diffusion(folders["sd3"], tmp_path / "unet")


def test_a_pipeline_without_t5_can_be_measured(folders):
    assert load_pipeline(folders["sd3_without_t5"]).text_encoder_3 is None


def changed(folder, tmp_path, file, **entries):
    """A copy of a pipeline with other entries in one of its json files."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / file).write_text(json.dumps(json.loads((copy / file).read_text()) | entries))
    return copy


@pytest.mark.parametrize(
    ("kind", "file", "entries", "message"),
    [
        ("sd", "model_index.json", {"unet": ["diffusers", "UNet2DModel"]}, "draws with UNet2DModel; supported"),
        ("sd3", "model_index.json", {"transformer": ["diffusers", "FluxTransformer2DModel"]}, "draws with FluxTransf"),
        ("sdxl", "model_index.json", {"text_encoder": [None, None]}, "no first text encoder"),
        ("sd3", "scheduler/scheduler_config.json", {"use_dynamic_shifting": True}, "use_dynamic_shifting=True shifts"),
        ("sd", "scheduler/scheduler_config.json", {"prediction_type": "colour"}, "prediction_type 'colour' is unknown"),
        ("sdxl", "vae/config.json", {"latents_mean": [0.0] * 4}, "latents_mean or latents_std"),
        ("sd", "unet/config.json", {"sample_size": None}, "has sample_size None: give image_size"),
        (
            "sdxl",
            "unet/config.json",
            {"sample_size": [8]},
            r"has sample_size \[8\]: give image_size, in multiples of 2",
        ),
        ("sd3", "transformer/config.json", {"sample_size": [8, 16]}, "write one number into its config, and give"),
    ],
)
def test_unknown_kinds_are_refused_in_one_line(kind, file, entries, message, folders, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        load_latent_diffusion(changed(folders[kind], tmp_path, file, **entries))
    assert "\n" not in str(caught.value)


def test_missing_pipelines_and_sizes_are_one_line(folders, tmp_path):
    for call in (load_latent_diffusion, load_prompt_encoder):
        with pytest.raises(ValueError, match=r"cannot get (model_index.json|text_encoder/)") as caught:
            call(str(tmp_path / "nothing"))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="in multiples of 2 px"):
        load_latent_diffusion(folders["sd"], image_size=15)
    with pytest.raises(ValueError, match=r"in multiples of 4 px up to 32, not 16 x 18 \(height x width\)"):
        load_latent_diffusion(folders["sd3"], image_size=(16, 18))
    with pytest.raises(ValueError, match=r"in multiples of 4 px up to 32, not 16 x 36 \(height x width\)"):
        load_latent_diffusion(folders["sd3"], image_size=(16, 36))
    with pytest.raises(ValueError, match=r"image_size=\[16, 0\]: give one whole number from 1"):
        load_latent_diffusion(folders["sd"], image_size=[16, 0])
