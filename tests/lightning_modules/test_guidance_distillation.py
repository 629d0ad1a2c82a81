"""A tiny network learns what guidance makes of its teacher, and plain diffusers samples what it exports."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from fewstep.backbones import load_guided_network, load_latent_diffusion
from fewstep.diffusion.guidance import ClassifierFree, DynamicGuidance
from fewstep.diffusion.solvers import ddim, even_times
from fewstep.optimizers import AdamW
from lightning_modules.guidance_distillation import GuidanceDistillationModule
from tests.tiny_diffusion import CAPTIONS, batch, unet, write_pipeline

SCALES = (1.0, 4.0, 8.0)


class Data(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader([batch(range(16))], batch_size=None)

    def val_dataloader(self):
        return DataLoader([batch(range(8), weight=[1.0] * 6 + [0.0] * 2)], batch_size=None)

    test_dataloader = val_dataloader


def trainer(folder, **options):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return L.Trainer(accelerator="cpu", num_sanity_val_steps=0, default_root_dir=folder, **quiet, **options)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """Its answers with and without a prompt are far apart, as those of a trained one."""
    network = unet(torch.initial_seed())
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith(("attn2.to_v.weight", "attn2.to_out.0.weight")):
                weight *= 6
    return write_pipeline(tmp_path_factory.mktemp("teacher"), "sd", network)


@pytest.fixture(scope="module")
def fitted(pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    net = GuidanceDistillationModule(pipeline, None, SCALES, 16, AdamW(1e-2, warmup_steps=5), export_dtype="float32")
    runner = trainer(folder, max_steps=60, check_val_every_n_epoch=60)
    first = runner.validate(net, Data(), verbose=False)[0]
    runner.fit(net, Data())
    runner.save_checkpoint(folder / "end.ckpt")
    return net, first, runner.validate(net, Data(), verbose=False)[0], folder / "end.ckpt"


@pytest.mark.learns
def test_it_starts_as_its_teacher_and_learns_what_guidance_adds(fitted, below):
    _, first, last, _ = fitted
    assert first["val/relative_error_w1"] < 1e-10  # the embedding begins at zero
    assert first["val/relative_error_w8"] > 0.01
    below("relative_error_w8", last["val/relative_error_w8"], 0.9 * first["val/relative_error_w8"])
    assert last["val/relative_error"] == pytest.approx(sum(last[f"val/relative_error_w{w:g}"] for w in SCALES) / 3)


def test_only_the_student_is_trained_and_stored(fitted, pipeline):
    net, *_, checkpoint = fitted
    stored = torch.load(checkpoint, weights_only=True)
    assert {name.partition(".")[0] for name in stored["state_dict"]} == {"model"}
    assert set(stored["frozen"]) == {"autoencoder", "text_encoder", "network"}
    untouched = load_latent_diffusion(pipeline)
    for name, weight in untouched.network.state_dict().items():
        assert torch.equal(net.teacher.network.state_dict()[name], weight), name
    assert not any(weight.requires_grad for weight in net.teacher.network.parameters())


def test_the_relative_error_is_that_against_two_passes(fitted, pipeline):
    """Measured anew from the exported files, on the rows that count."""
    net, _, last, _ = fitted
    teacher = load_latent_diffusion(pipeline)
    data = batch(range(6))
    x, condition = net.encoders.read(data, training=False)
    logged = {}
    net.log = lambda name, value, **_: logged.update({name: value.item()})
    net._evaluate("val", batch(range(8), weight=[1.0] * 6 + [0.0] * 2))
    del net.log
    assert logged["val/relative_error_w8"] == pytest.approx(last["val/relative_error_w8"], rel=1e-4)
    guided = teacher.denoiser()
    assert isinstance(guided, ClassifierFree)
    t, w = torch.full((6,), 0.7), torch.full((6,), 8.0)
    error = (net.student(x, t, w, condition) - guided(x, t, w, condition)).square().mean()
    assert error < 0.5 * (net.student(x, t, torch.ones(6), condition) - guided(x, t, w, condition)).square().mean()


def test_plain_diffusers_samples_the_export_in_one_pass(fitted, pipeline, tmp_path):
    from diffusers import StableDiffusionPipeline

    net, *_ = fitted
    net.export(str(tmp_path))
    model, scales = load_guided_network(tmp_path)
    assert scales == SCALES
    calls = []
    plain = StableDiffusionPipeline.from_pretrained(pipeline, unet=model, safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    model.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"num_inference_steps": 5, "latents": noise, "output_type": "latent"}
    with torch.no_grad():
        sampled = plain(CAPTIONS[:2], guidance_scale=8.0, **options).images
        condition, times = net.encoders.prompts(CAPTIONS[:2]), even_times(5, 1.0, 0.0)
        ours = ddim(net.student, net.parametrization, noise, times, condition, DynamicGuidance(8.0))
    assert calls == [2] * 5  # no second pass
    torch.testing.assert_close(ours, sampled, rtol=1e-3, atol=1e-3)


def test_an_exported_network_goes_on_being_trained(fitted, pipeline, tmp_path):
    net, *_ = fitted
    net.export(str(tmp_path))
    again = GuidanceDistillationModule(pipeline, None, (1.0, 6.0), 16, start_from=str(tmp_path))
    for name, weight in net.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight), name
    assert all(weight.requires_grad for weight in again.model.parameters())
    with pytest.raises(
        ValueError, match=r"does not fit this architecture: time_embedding\.cond_proj\.weight has shape"
    ):
        GuidanceDistillationModule(pipeline, None, SCALES, 32, start_from=str(tmp_path))
    with pytest.raises(ValueError, match="has no guidance embedding; distil guidance into this network first"):
        GuidanceDistillationModule(pipeline, start_from=f"{pipeline}/unet")


def test_mistakes_are_named(pipeline, tmp_path):
    with pytest.raises(ValueError, match=r"guidance_scales=.*1, which is unguided"):
        GuidanceDistillationModule(pipeline, guidance_scales=[4.0, 8.0])
    with pytest.raises(ValueError, match="export_dtype='half'"):
        GuidanceDistillationModule(pipeline, export_dtype="half")
    guided = write_pipeline(tmp_path, "sd", unet(time_cond_proj_dim=16))
    with pytest.raises(ValueError, match="has a guidance embedding already"):
        GuidanceDistillationModule(guided)
