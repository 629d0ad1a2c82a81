"""Tiny autoencoders: they learn squares of a colour, and diffusers loads what they export."""

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from callbacks.checkpoints.export import Export
from fewstep.backbones import diffusers_network, load_autoencoder
from fewstep.diffusion.latent_space import LatentSpace
from fewstep.optimizers import AdamW
from lightning_modules import AutoencoderModule
from tests.tiny_diffusion import AUTOENCODER, batch

TINY = {
    "encoder_block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "num_encoder_blocks": [1, 1],
    "num_decoder_blocks": [1, 1],
}


class Distance(nn.Module):
    """Stands for LPIPS: frozen weights, [B]."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, images, references):
        return (self.convolution(images) - self.convolution(references)).square().mean((1, 2, 3))


class Data(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader([batch(range(16))], batch_size=None)

    def val_dataloader(self):
        return DataLoader([batch(range(20, 26)), batch(range(26, 30), [1.0, 1.0, 1.0, 0.0])], batch_size=None)

    test_dataloader = val_dataloader


def module(config=AUTOENCODER, name="AutoencoderKL", **options):
    options = {"optimizer": AdamW(2e-3, (0.9, 0.99), warmup_steps=5), "export_dtype": "float32", **options}
    return AutoencoderModule(diffusers_network(name, config), **options)


def trainer(folder, *callbacks, **options):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options = {"num_sanity_val_steps": 0, "accelerator": "cpu", **quiet, **options}
    return L.Trainer(default_root_dir=folder, callbacks=list(callbacks), **options)


@pytest.fixture(scope="module", params=["AutoencoderKL", "AutoencoderTiny"])
def fitted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    net = module(AUTOENCODER if request.param == "AutoencoderKL" else TINY, request.param, perceptual=Distance())
    runner = trainer(folder, Export(), max_steps=40, check_val_every_n_epoch=40)
    first = runner.validate(net, Data(), verbose=False)[0]
    runner.fit(net, Data())
    runner.save_checkpoint(folder / "end.ckpt")
    return net, folder, first, runner.test(net, Data(), verbose=False)[0]


@pytest.mark.learns
def test_learns(fitted, below):
    _, _, first, last = fitted
    below("loss", last["test/loss"], first["val/loss"])
    below("1 dB of PSNR", 1, last["test/psnr"] - first["val/psnr"])


def test_psnr_is_that_of_the_saved_pictures_that_count(fitted):
    net, _, _, last = fitted
    values = []
    with torch.no_grad():
        for data in Data().val_dataloader():
            net.log = lambda *_, **__: None
            outputs = net.validation_step(data, 0)
            assert torch.equal(outputs["image"], outputs["reconstruction"])
            assert torch.equal(outputs["reference"], data["image"])
            saved = [((x + 1) * 127.5).round().numpy() for x in (outputs["image"], data["image"])]
            error = ((saved[0] - saved[1]) ** 2).mean((1, 2, 3))
            values += (10 * np.log10(255**2 / error))[data["weight"].numpy() > 0].tolist()
    assert len(values) == 9
    assert last["test/psnr"] == pytest.approx(np.mean(values), abs=1e-3)


def test_export_scales_latents_to_one(fitted):
    net, folder, *_ = fitted
    space = LatentSpace(load_autoencoder(folder / "export"))
    images = torch.cat([data["image"][data["weight"] > 0] for data in Data().val_dataloader()])
    latents = space.encode(images)
    assert latents.shape == (9, 4, 8, 8)
    assert latents.std().item() == pytest.approx(1, abs=1e-2)
    with torch.no_grad():
        expected = net.validation_step({"image": images, "weight": torch.ones(9)}, 0)["image"]
    torch.testing.assert_close(space.decode(latents), expected, rtol=1e-4, atol=1e-4)


def test_the_perceptual_network_is_neither_trained_nor_stored(fitted):
    net, folder, *_ = fitted
    stored = torch.load(folder / "end.ckpt", weights_only=True)["state_dict"]
    assert {name.partition(".")[0] for name in stored} == {"model"}
    assert not any(weight.requires_grad for weight in net.perceptual[0].parameters())


def test_the_loss_is_the_sum_of_its_terms():
    net = module(perceptual=Distance(), perceptual_weight=0.5, kl_weight=0.2, loss="l2")
    logged = {}
    net.log = lambda key, value, **_: logged.update({key: value.item()})
    net.log_dict = lambda values, **_: logged.update({key: value.item() for key, value in values.items()})
    data = batch(range(3))
    torch.manual_seed(1)
    loss = net.training_step(data, 0).item()
    torch.manual_seed(1)
    posterior = net.model.encode(data["image"]).latent_dist
    found = net.model.decode(posterior.mean + posterior.std * torch.randn(3, 4, 8, 8)).sample
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(posterior.mean, posterior.std), torch.distributions.Normal(0.0, 1.0)
    )
    expected = {
        "train/reconstruction_loss": (found - data["image"]).square().mean().item(),
        "train/kl_loss": 0.2 * kl.mean().item(),
        "train/perceptual_loss": 0.5 * net.perceptual[0](found, data["image"]).mean().item(),
    }
    assert {key: logged[key] for key in expected} == pytest.approx(expected, rel=1e-4)
    assert loss == pytest.approx(sum(expected.values()), rel=1e-4)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="loss='huber'"):
        module(loss="huber")
    with pytest.raises(ValueError, match="kl_weight=-1"):
        module(kl_weight=-1.0)
    with pytest.raises(ValueError, match="validate or test before the export"):
        module().export(str(tmp_path))
    with pytest.raises(ValueError, match="no config entry 'blocks'"):
        diffusers_network("AutoencoderKL", {"blocks": 3})
    with pytest.raises(ValueError, match="no network 'DDIMScheduler'"):
        diffusers_network("DDIMScheduler", {})
    with pytest.raises(ValueError, match="AutoencoderKL cannot be built from this config"):
        diffusers_network("AutoencoderKL", {**AUTOENCODER, "norm_num_groups": 5})
    diffusers_network(
        "UNet2DModel",
        {"block_out_channels": [32], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]},
    ).save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match="holds a UNet2DModel, not an autoencoder"):
        load_autoencoder(tmp_path / "unet")
