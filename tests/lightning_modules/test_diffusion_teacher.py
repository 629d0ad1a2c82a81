"""A Stable Diffusion of a few thousand weights: it trains, leaves its frozen parts alone, and diffusers samples it."""

from dataclasses import replace

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks.care.ema import EMA
from fewstep.backbones.frozen_encoders import FrozenEncoders
from fewstep.optimizers import AdamW
from fewstep.rng import PerSampleRng
from lightning_modules import DiffusionTeacherModule
from tests.tiny_diffusion import CAPTIONS, batch, unet, write_autoencoder, write_pipeline, write_text_encoder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return write_autoencoder(folder / "vae"), write_text_encoder(folder / "text")


OPTIMIZER = AdamW(2e-4, (0.9, 0.99), 0.01, 5)


def module(folders, seed=0, **options):
    net = DiffusionTeacherModule(unet(seed), *folders, **{"optimizer": OPTIMIZER, "export_dtype": "float32", **options})
    net.log = lambda key, value, **_: net.logged.update({key: value.item()})
    net.logged = {}
    return net


def trainer(folder, *callbacks, **options):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return L.Trainer(
        accelerator="cpu",
        num_sanity_val_steps=0,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **quiet,
        **options,
    )


class Data(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader([batch(range(16))], batch_size=None)

    def val_dataloader(self):
        return DataLoader([batch(range(8))], batch_size=None)

    test_dataloader = val_dataloader


@pytest.fixture(scope="module")
def fitted(folders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    net = DiffusionTeacherModule(unet(torch.initial_seed()), *folders, optimizer=replace(OPTIMIZER, lr=5e-3))
    runner = trainer(folder, EMA(decay=0.9), max_steps=40, check_val_every_n_epoch=40)
    first = runner.validate(net, Data(), verbose=False)[0]["val/loss"]
    runner.fit(net, Data())
    runner.save_checkpoint(folder / "end.ckpt")
    return net, first, runner.validate(net, Data(), verbose=False)[0]["val/loss"], folder / "end.ckpt"


@pytest.mark.learns
def test_learns(fitted, below):
    _, first, last, _ = fitted
    below("loss", last, 0.7 * first)


def test_only_the_unet_is_trained_and_stored(fitted, folders):
    net, *_, checkpoint = fitted
    stored = torch.load(checkpoint, weights_only=True)
    assert {name.partition(".")[0] for name in stored["state_dict"]} == {"unet"}
    untouched = FrozenEncoders(*folders)
    assert stored["frozen"] == untouched.hashes == FrozenEncoders(*folders).hashes
    for part in ("latents.autoencoder", "prompts.text_encoder"):
        outer, inner = part.split(".")
        own, fresh = (getattr(getattr(encoders, outer), inner) for encoders in (net.encoders, untouched))
        assert not own.training
        assert not any(weight.requires_grad for weight in own.parameters())
        for name, weight in fresh.state_dict().items():
            assert torch.equal(own.state_dict()[name], weight), name


def test_a_checkpoint_of_other_frozen_weights_is_refused(fitted, folders, tmp_path):
    stored = torch.load(fitted[-1], weights_only=True)
    module(folders).on_load_checkpoint(stored)
    other = write_autoencoder(tmp_path / "vae", seed=1)
    with pytest.raises(ValueError, match="trained with another autoencoder"):
        module((other, folders[1])).on_load_checkpoint(stored)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_plain_diffusers_draws_the_same_pictures(prediction, folders, tmp_path):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    net = module(folders, prediction=prediction)
    net.export(str(tmp_path / "sd"))
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "sd")
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    for scale in (1.0, 3.0):
        options = {"guidance_scale": scale, "num_inference_steps": 5, "output_type": "np"}
        theirs = pipeline(CAPTIONS[:2], latents=noise.clone(), **options).images
        ours = net.generate(noise, net.encoders.prompts(CAPTIONS[:2]), 5, scale)
        assert ours.shape == (2, 3, 16, 16)
        np.testing.assert_allclose(ours.permute(0, 2, 3, 1).add(1).div(2).numpy(), theirs, atol=2e-5)
    unguided = net.generate(noise, net.encoders.prompts(CAPTIONS[:2]), 5, 1.0)
    assert (ours - unguided).abs().max() > 1e-3  # guidance did something


def test_half_precision_export_is_smaller_and_draws_nearly_the_same(folders, tmp_path):
    from diffusers import StableDiffusionPipeline

    sizes, pictures = {}, {}
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    for dtype in ("float32", "float16"):
        module(folders, export_dtype=dtype).export(str(tmp_path / dtype))
        sizes[dtype] = (tmp_path / dtype / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
        pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / dtype)
        pipeline.set_progress_bar_config(disable=True)
        options = {"guidance_scale": 3.0, "num_inference_steps": 3, "output_type": "np"}
        pictures[dtype] = pipeline(CAPTIONS[0], latents=noise.clone(), **options).images
    assert sizes["float16"] < 0.75 * sizes["float32"]
    np.testing.assert_allclose(pictures["float16"], pictures["float32"], atol=0.02)


def test_val_loss_belongs_to_samples_not_to_batches(folders):
    net = module(folders, sampling_steps=2)
    with torch.no_grad():
        whole = net.validation_step(batch(range(6)), 0)
        parts = [net.validation_step(batch(rows), 1) for rows in ([5, 2], [0, 1, 4, 3])]
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    for name in ("loss", "image"):
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), whole[name][order], rtol=1e-4, atol=1e-5)
    assert whole["image"].shape == (6, 3, 16, 16)
    assert whole["image"].abs().max() <= 1
    with torch.no_grad():
        net.validation_step(batch(range(6), [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]), 0)
    assert net.logged["val/loss"] == pytest.approx(whole["loss"][[0, 2, 3]].mean().item(), rel=1e-4)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_losses_are_those_of_diffusers_min_snr_recipe(prediction, folders):
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    net = module(folders, prediction=prediction)
    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    foreign = {"eps": "epsilon", "v": "v_prediction"}[prediction]
    scheduler = DDPMScheduler(**schedule, prediction_type=foreign)
    steps = torch.tensor([0, 19, 300, 999])
    data, noise = torch.randn(2, 4, 4, 8, 8).unbind()
    condition = net.encoders.prompts(CAPTIONS)
    with torch.no_grad():
        losses = net._losses(data, noise, (steps + 1) / 1000, condition)
        output = net.unet(scheduler.add_noise(data, noise, steps), steps, condition["prompt"]).sample
    target = noise if prediction == "eps" else scheduler.get_velocity(data, noise, steps)
    snr = compute_snr(scheduler, steps)
    weight = snr.clamp(max=5.0) / (snr if prediction == "eps" else snr + 1)
    torch.testing.assert_close(losses, weight * (output - target).square().mean((1, 2, 3)), rtol=1e-4, atol=1e-6)


def test_the_stated_share_of_prompts_is_dropped(folders):
    net = module(folders, prompt_dropout=0.3)
    seen = []
    net.network = lambda x, t, condition: seen.append(condition["prompt"]) or x
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(4):
            net.training_step(batch(range(100)), 0)
    dropped = (torch.cat(seen) == net.encoders.null_condition["prompt"]).all(-1).all(-1).float().mean()
    assert 0.23 < dropped < 0.37


def test_stored_latents_and_prompts_stand_for_their_encoders(folders, tmp_path):
    net, plain = module(folders), batch(range(5))
    latents = net.encoders.latents.encode(plain["image"])
    prompts = net.encoders.prompts(plain["caption"])["prompt"]
    other = net.encoders.prompts(["a blue square"] * 5)["prompt"]
    stored = {**plain, "latent": latents.half(), "prompt": torch.stack([prompts, other], 1).half()}
    with torch.no_grad():
        expected = net.validation_step(plain, 0)["loss"]
        torch.testing.assert_close(net.validation_step(stored, 0)["loss"], expected, rtol=5e-3, atol=1e-4)
    torch.manual_seed(0)
    drawn = torch.stack([net.encoders.read(stored, training=True)[1]["prompt"] for _ in range(20)])
    share = (drawn - other).abs().amax((2, 3)).lt(1e-2)[:, :2].float().mean()
    assert 0.2 < share < 0.8
    unread = {**stored, "weight": torch.tensor([0.0, 1, 1, 1, 1]), "latent": stored["latent"].clone()}
    unread["latent"][0] = 0
    net.validation_step(unread, 0)
    foreign = FrozenEncoders(write_autoencoder(tmp_path / "vae", seed=1), write_text_encoder(tmp_path / "text", seed=1))
    arrays = {
        "latent": foreign.latents.encode(plain["image"]),
        "prompt": foreign.prompts(plain["caption"])["prompt"][:, None],
    }
    for name, values in arrays.items():
        with pytest.raises(ValueError, match=f"the stored {name} of k0 is not what"):
            net.validation_step({**stored, name: values.half()}, 0)


def test_mistakes_are_named(folders, tmp_path):
    with pytest.raises(ValueError, match="prediction='x0'"):
        module(folders, prediction="x0")
    with pytest.raises(ValueError, match="prompt_dropout=1"):
        module(folders, prompt_dropout=1.0)
    for name, value in (
        ("min_snr_gamma", 0.0),
        ("min_snr_gamma", -1.0),
        ("sampling_steps", -1),
        ("guidance_scale", -2.0),
    ):
        with pytest.raises(ValueError, match=f"^{name}={value}: must be"):  # a gamma below 0 trains backwards
            module(folders, **{name: value})
    with pytest.raises(ValueError, match="cross_attention_dim=8, its autoencoder and text encoder need 16"):
        DiffusionTeacherModule(unet(cross_attention_dim=8), *folders)
    with pytest.raises(ValueError, match="no sample_size"):
        DiffusionTeacherModule(unet(sample_size=None), *folders)
    with pytest.raises(ValueError, match="cannot get vae/"):
        DiffusionTeacherModule(unet(), str(tmp_path / "nothing"), folders[1])
    with pytest.raises(ValueError, match="gives pooled, prompt, time_ids; choose one of a single CLIP"):
        DiffusionTeacherModule(unet(), folders[0], write_pipeline(tmp_path / "xl", "sdxl"))
    with pytest.raises(ValueError, match="at most 12; shorten"):
        FrozenEncoders(*folders).prompts(["a red square and " * 6])
    with pytest.raises(ValueError, match="multiples of 2"):
        FrozenEncoders(*folders).latents.encode(torch.zeros(1, 3, 15, 16))


def test_images_of_prompts_are_those_of_captions(folders, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    net, rows = module(folders, sampling_steps=2, guidance_scale=3.0).eval(), batch(range(3))
    expected = net.test_step(rows, 0)["image"]

    def drawn(**options):
        return net.generate_images(rows["caption"], PerSampleRng(5, rows["key"]), **options)

    torch.testing.assert_close(drawn(), expected)
    torch.testing.assert_close(drawn(num_steps=2, guidance_scale=3.0), expected)
    for other in ({"num_steps": 3}, {"guidance_scale": 1.0}):
        assert (drawn(**other) - expected).abs().max() > 1e-4


def test_a_text_encoder_that_is_trained_is_stored_guides_and_is_exported(folders, tmp_path):
    from diffusers import StableDiffusionPipeline

    net = module(folders, train_text_encoder=True, prompt_dropout=0.5)
    net.trainer = trainer(tmp_path, max_steps=3)
    before = {name: value.clone() for name, value in net.text_encoder.state_dict().items()}
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        net.training_step(batch(range(16)), 0).backward()
        optimizer.step()
    moved = {name for name, value in net.text_encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert net.text_encoder.training  # else Lightning warns of it at every start
    assert any("token_embedding" in name for name in moved)
    assert any("mlp" in name for name in moved)
    checkpoint = {}
    net.on_save_checkpoint(checkpoint)
    assert set(checkpoint["frozen"]) == {"autoencoder"}
    assert any(name.startswith("text_encoder.") for name in net.state_dict())
    net.export(str(tmp_path / "sd"))
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "sd")
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    options = {"guidance_scale": 3.0, "num_inference_steps": 4, "output_type": "np"}
    theirs = pipeline(CAPTIONS[:2], latents=noise.clone(), **options).images
    ours = net.generate(
        noise, net.encoders.prompts(CAPTIONS[:2]), 4, 3.0
    )  # the unguided prompt is the trained one, too
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).add(1).div(2).numpy(), theirs, atol=5e-5)


def test_dropped_captions_are_the_empty_prompt(folders):
    net, seen = module(folders, train_text_encoder=True, prompt_dropout=0.5), []
    states = net.encoders.prompts.with_gradients
    net.encoders.prompts.with_gradients = lambda prompts, **_: seen.extend(prompts) or states(prompts)
    rows = batch(range(16))
    for _ in range(8):
        net.training_step(rows, 0)
    dropped = [prompt == "" for prompt in seen]
    assert 32 < sum(dropped) < 96  # of 128, each with probability 1/2
    assert all(
        drop or prompt == caption for drop, prompt, caption in zip(dropped, seen, rows["caption"] * 8, strict=True)
    )


def test_stored_states_are_none_of_a_text_encoder_that_is_trained(folders):
    rows = batch(range(4))
    with pytest.raises(ValueError, match=r"take prompt out of --data\.arrays"):
        module(folders, train_text_encoder=True).training_step({**rows, "prompt": torch.zeros(4, 1, 16, 16)}, 0)


def test_longer_prompts_are_learnt_and_exported(folders, tmp_path):
    from diffusers import StableDiffusionPipeline

    torch.manual_seed(0)
    short, long = (module(folders, train_text_encoder=True, **more) for more in ({}, {"text_length": 24}))
    length, words = short.encoders.prompts.length, CAPTIONS[:1]
    before, after = (net.encoders.prompts(words)["prompt"] for net in (short, long))
    assert before.shape[1] == length < after.shape[1] == 24
    torch.testing.assert_close(after[:, :length], before)  # causal: what comes later changes nothing
    many = [" ".join([*CAPTIONS[0].split()] * 8)]
    with pytest.raises(ValueError, match="token"):
        short.encoders.prompts(many)
    optimizer = torch.optim.SGD(long.parameters(), lr=1.0)
    rows = batch(range(16)) | {"caption": many * 16}
    start = {name: value.clone() for name, value in long.text_encoder.state_dict().items()}
    long.training_step(rows, 0).backward()
    optimizer.step()
    (name,) = (name for name in start if "position_embedding" in name)
    assert (long.text_encoder.state_dict()[name][length:] - start[name][length:]).abs().amax() > 0
    long.export(str(tmp_path / "sd"))
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "sd")
    states, _ = pipeline.encode_prompt(CAPTIONS[0], "cpu", 1, False)
    torch.testing.assert_close(states, long.encoders.prompts(words)["prompt"], atol=1e-5, rtol=1e-4)


def test_a_length_needs_training_and_more_tokens(folders):
    with pytest.raises(ValueError, match="text_length=24: longer prompts are learnt with train_text_encoder only"):
        module(folders, text_length=24)
    with pytest.raises(ValueError, match=r"text_length=3: the text encoder takes .* tokens already; leave it out"):
        module(folders, text_length=3, train_text_encoder=True)
