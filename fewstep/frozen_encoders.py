"""What a latent diffusion model reads of a batch: latents and prompt states, computed here or beforehand."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fewstep.backbones import load_autoencoder, load_prompt_encoder
from fewstep.guidance import Condition
from fewstep.latent_space import LatentSpace
from fewstep.local_weights import weights_sha256

TOLERANCE = 0.02  # of stored latents and prompt states in half precision, relative to what is computed here


class FrozenEncoders:
    """Autoencoder and text encoder of a pipeline; no nn.Module, so a network that holds one does not store or train it.

    autoencoder, text_encoder: folders or hub ids, see load_autoencoder and load_prompt_encoder of fewstep.backbones.
    """

    def __init__(self, autoencoder: str, text_encoder: str) -> None:
        self.latents, self.prompts = LatentSpace(load_autoencoder(autoencoder)), load_prompt_encoder(text_encoder)
        self.null_condition: Condition = {"prompt": self.prompts([""])}  # [1, L, D]
        self.hashes = {  # for checkpoints, which hold neither
            "autoencoder": weights_sha256(self.latents.autoencoder),
            "text_encoder": weights_sha256(self.prompts.text_encoder),
        }

    def to(self, device: torch.device | str) -> "FrozenEncoders":
        self.latents.to(device)
        self.prompts.to(device)
        self.null_condition = {name: value.to(device) for name, value in self.null_condition.items()}
        return self

    def check_unet(self, config: Mapping[str, Any]) -> None:
        """ValueError in one line unless a UNet2DConditionModel with this config fits."""
        sizes = {"cross_attention_dim": self.prompts.width}
        sizes |= dict.fromkeys(("in_channels", "out_channels"), self.latents.channels)
        for name, value in sizes.items():
            if config[name] != value:
                raise ValueError(f"the unet has {name}={config[name]}, its autoencoder and text encoder need {value}")
        if config["sample_size"] is None:
            raise ValueError("the unet has no sample_size: give the side of the latents, which pipelines ask for")

    def check_hashes(self, stored: Mapping[str, str] | None) -> None:
        """ValueError in one line if a checkpoint was trained with other weights."""
        for part, present in self.hashes.items():
            if stored is not None and stored.get(part) != present:
                raise ValueError(f"the checkpoint was trained with another {part} ({stored.get(part)}, here {present})")

    def read(self, batch: Mapping[str, Any], training: bool) -> tuple[Tensor, Condition]:
        """Latents [B, C, h, w] and {"prompt": [B, L, D]}, float32.

        From `image` [B, 3, H, W] in [-1, 1] and `caption` list[str], or from `latent` [B, C, h, w] and `prompt`
        [B, K, L, D] where the batch has them: training takes one of the K captions at random, evaluation the first.
        Captions that are too long are cut.
        """
        data = batch["latent"].float() if "latent" in batch else self.latents.encode(batch["image"])
        if "prompt" not in batch:
            return data, {"prompt": self.prompts(batch["caption"], truncate=True)}
        rows, several = batch["prompt"].shape[:2]
        choice = torch.randint(several if training else 1, (rows,), device=data.device)
        return data, {"prompt": batch["prompt"][torch.arange(rows, device=data.device), choice].float()}

    def check_stored(self, batch: Mapping[str, Any]) -> None:
        """ValueError in one line where a sample's stored arrays are not what these networks make of it.

        Looks at the first sample of an evaluation batch that counts (`weight` [B] above 0).
        """
        real = batch["weight"].tolist()
        row = next((row for row, weight in enumerate(real) if weight > 0), None)
        if row is None or not {"latent", "prompt"} & batch.keys():
            return
        names = ("image", "caption", "latent", "prompt")
        first = {name: batch[name][row : row + 1] for name in names if name in batch}
        fresh = {name: first[name] for name in ("image", "caption")}
        for name, value, expected in zip(("latent", "prompt"), self._arrays(first), self._arrays(fresh), strict=True):
            if value.shape != expected.shape or (value - expected).norm() > TOLERANCE * expected.norm():
                raise ValueError(
                    f"the stored {name} of {batch['key'][row]} is not what these encoders make of it; "
                    "run python -m datamodules.prepare latents again, and read with its image_size"
                )

    def _arrays(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        data, condition = self.read(batch, training=False)
        return data, condition["prompt"]
