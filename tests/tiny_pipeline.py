"""A random Stable Diffusion pipeline that fits into a test, captioned pictures, and metrics that need no weights."""

import io
import json
import string

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import nn

from fewstep.rng import PerSampleRng

SIZE, CHANNELS, NUM_TEST = 16, 8, 25
TINY = "tests.tiny_pipeline"
COLOURS = ["--metrics.fid.network", f"{TINY}.Colours", "--metrics.kid.network", f"{TINY}.Colours"]
CHOSEN = ["--metrics", "fid", "kid", "clip_score", *COLOURS, "--metrics.kid.subset_size=10"]
CHOSEN += ["--metrics.clip_score.scorer", f"{TINY}.Brightness", "--bootstrap", "50"]


def save_pipeline(folder):
    """As `save_pretrained` leaves it; images of SIZE pixels."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [*string.ascii_lowercase, *string.digits]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    tokenizer = CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=16)
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    blocks = {"block_out_channels": (CHANNELS, CHANNELS), "norm_num_groups": 4}
    vae = AutoencoderKL(
        latent_channels=4, sample_size=SIZE, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, **blocks,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=SIZE // 2, layers_per_block=1, cross_attention_dim=8, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **blocks,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=CLIPTextModel(text), tokenizer=tokenizer,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def write_pictures(folder, **splits):
    """A folder of shards; splits: name -> number of pictures."""
    from PIL import Image

    from datamodules.prepare.image_shard_writing import Samples, write_image_folder

    def render(key):
        rng = np.random.default_rng(int(key))
        pixels = (rng.random((1, 1, 3)) * 150 + rng.random((SIZE, SIZE, 3)) * 100).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "png")
        return {"png": file.getvalue(), "txt": f"picture {int(key) % 7}".encode()}

    samples, first = {}, 0
    for name, num in splits.items():
        samples[name] = Samples([f"{i:06d}" for i in range(first, first + num)], render)
        first += num
    write_image_folder(str(folder), samples, {"name": "test", "license": "none", "command": "none"}, progress=False)


class Colours(nn.Module):
    """A feature network of 3 features."""

    num_features, name = 3, "colours"

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale, self.protocol = scale, {"network": "Colours", "scale": str(scale)}

    def forward(self, images):
        return images.float().mean((2, 3)) / 255 * self.scale


class Brightness(nn.Module):
    """A reward (images, prompts) -> [B]."""

    def forward(self, images, prompts):
        return images.mean((1, 2, 3)) + torch.tensor([len(prompt) / 100 for prompt in prompts])


class TinyPainter(LightningModule):
    """Paints noise of (seed, key) around a trained colour."""

    def __init__(self, lr: float = 0.1, gain: float = 1.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.colour = nn.Parameter(torch.zeros(3))

    def training_step(self, batch, batch_idx):
        loss = (batch["image"].mean((2, 3)) - self.colour).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        noise = PerSampleRng(0, batch["key"]).normal(3, SIZE, SIZE).to(self.device)
        image = (self.colour[:, None, None] + 0.2 * noise).clamp(-1, 1)
        self.log(
            f"{'test' if self.trainer.testing else 'val'}/mean", image.mean(), batch_size=int(batch["weight"].sum())
        )
        return {"image": image * self.hparams.gain, "nfe": torch.full((len(image),), 2.0, device=self.device)}

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams.lr)


class TinyIllustrator(TinyPainter):
    """Answers prompts, too: noise of the sample around a grey that the prompt's length and the steps decide."""

    def generate_images(self, prompts, rng, num_steps=2):
        assert not self.training
        grey = torch.tensor([len(prompt) / 50 for prompt in prompts]) / num_steps
        return (grey[:, None, None, None] + 0.2 * rng.normal(3, SIZE, SIZE)).clamp(-1, 1)


def measured(out):
    return json.loads((out / "metrics.json").read_text())["runs"]


def check_one_line(evaluate, arguments, message, capsys):
    capsys.readouterr()
    assert evaluate(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
