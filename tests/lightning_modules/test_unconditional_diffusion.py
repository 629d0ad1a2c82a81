"""A pixel diffusion model of a few thousand weights: it trains, and plain diffusers draws the same pictures."""

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks.care.ema import EMA
from fewstep.backbones import diffusers_network
from fewstep.diffusion.schedules import DiscreteSchedule
from fewstep.optimizers import AdamW
from lightning_modules import UnconditionalDiffusionModule

UNET = {
    "sample_size": [8, 16],
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}


def module(**options):
    torch.manual_seed(0)
    net = UnconditionalDiffusionModule(diffusers_network("UNet2DModel", UNET), **{"export_dtype": "float32", **options})
    net.log = lambda key, value, **_: net.logged.update({key: value.item()})
    net.logged = {}
    return net


def batch(rows):
    """Pictures of one colour, each by its number."""
    levels = torch.tensor([[row % 2, row // 2 % 2, row // 4 % 2] for row in rows]) * 1.6 - 0.8
    return {
        "image": levels[:, :, None, None].expand(-1, 3, 8, 16).contiguous(),
        "key": [f"k{row}" for row in rows],
        "weight": torch.ones(len(rows)),
    }


class Data(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader([batch(range(8))], batch_size=None)

    val_dataloader = test_dataloader = train_dataloader


@pytest.mark.learns
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_learns(tmp_path, below):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    torch.manual_seed(torch.initial_seed())
    net = UnconditionalDiffusionModule(diffusers_network("UNet2DModel", UNET), optimizer=AdamW(5e-3, warmup_steps=5))
    runner = L.Trainer(
        accelerator="cpu", max_steps=60, check_val_every_n_epoch=60, callbacks=[EMA(decay=0.9)],
        num_sanity_val_steps=0, default_root_dir=tmp_path, **quiet,
    )  # fmt: skip
    first = runner.validate(net, Data(), verbose=False)[0]["val/loss"]
    runner.fit(net, Data())
    below("loss", runner.validate(net, Data(), verbose=False)[0]["val/loss"], 0.7 * first)


@pytest.mark.parametrize(
    ("prediction", "beta_schedule"), [("eps", "linear"), ("v", "linear"), ("v", "squaredcos_cap_v2")]
)
def test_plain_diffusers_draws_the_same_pictures(prediction, beta_schedule, tmp_path):
    from diffusers import DDIMScheduler, DDPMPipeline

    net = module(prediction=prediction, beta_schedule=beta_schedule)
    net.export(str(tmp_path))
    pipeline = DDPMPipeline.from_pretrained(tmp_path)
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    scheduler.set_timesteps(5)
    noise = torch.randn(2, 3, 8, 16, generator=torch.Generator().manual_seed(3))
    theirs = noise
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            theirs = scheduler.step(pipeline.unet(theirs, timestep).sample, timestep, theirs).prev_sample
    ours = net.generate(noise, 5)
    np.testing.assert_allclose(ours.numpy(), theirs.clamp(-1, 1).numpy(), atol=2e-4)
    assert ours.std() > 0.1


def test_the_loss_is_that_of_ddpm_on_its_own_schedule():
    """Against Ho et al.'s Eq. 14 written out, at times and noise that belong to the keys."""
    net, rows = module(), batch([1, 6])
    losses = net.validation_step(rows, 0)["loss"]
    again = net.validation_step({name: value[1:] for name, value in rows.items()}, 0)["loss"]
    torch.testing.assert_close(again, losses[1:])
    assert net.logged["val/loss"] == pytest.approx(losses[1].item(), rel=1e-5)
    t, noise = torch.tensor([0.5, 0.9]), torch.randn(2, 3, 8, 16)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[[499, 899]].float()
    alpha, sigma = (values[:, None, None, None] for values in (alpha_bar.sqrt(), (1 - alpha_bar).sqrt()))
    with torch.no_grad():
        predicted = net.unet(alpha * rows["image"] + sigma * noise, torch.tensor([499, 899])).sample
        ours = net._losses(rows["image"], noise, t)
    torch.testing.assert_close(ours, (predicted - noise).square().mean((1, 2, 3)), rtol=1e-4, atol=1e-5)
    schedule = net.parametrization.schedule
    assert isinstance(schedule, DiscreteSchedule)


def test_evaluation_draws_pictures_of_the_keys():
    net = module(sampling_steps=2)
    first = net.validation_step(batch([1, 6]), 0)["image"]
    assert first.shape == (2, 3, 8, 16)
    assert first.abs().max() <= 1
    torch.testing.assert_close(net.test_step(batch([6]), 0)["image"], first[1:], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction": "x0"}, "prediction"),
        ({"beta_schedule": "cosine"}, "beta_schedule='cosine'"),
        ({"sampling_steps": -1}, "sampling_steps=-1"),
        ({"min_snr_gamma": 0.0}, "min_snr_gamma=0.0: must be above 0"),
        ({"min_snr_gamma": -5.0}, "min_snr_gamma=-5.0: must be above 0"),
        ({"export_dtype": "int8"}, "int8"),
    ],
)
def test_options_that_cannot_be_meant_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        module(**options)


def test_a_network_of_other_channels_is_one_line():
    with pytest.raises(ValueError, match="1 channels in and 6 out; pictures have 3"):
        UnconditionalDiffusionModule(diffusers_network("UNet2DModel", UNET | {"in_channels": 1, "out_channels": 6}))
