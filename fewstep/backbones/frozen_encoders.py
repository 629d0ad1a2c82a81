"""What a latent diffusion model reads of a batch: latents and its condition, computed here or beforehand."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.backbones import LatentDiffusion, check_network, load_autoencoder, load_prompt_encoder
from fewstep.diffusion.guidance import Condition
from fewstep.diffusion.latent_space import LatentSpace
from fewstep.diffusion.prompt_encoder import PromptEncoder, Prompts
from fewstep.files.weights import weights_sha256
from fewstep.picture_size import Size, as_text, height_and_width

TOLERANCE = 0.02  # of stored latents and prompt states in half precision, relative to what is computed here


class FrozenEncoders:
    """Autoencoder and text encoders of a pipeline; no nn.Module: a network that holds one does not store or train it.

    autoencoder, text_encoder: folders or hub ids, see load_autoencoder and load_prompt_encoder of fewstep.backbones, or
    what a LatentDiffusion has of them: its `latents` and `prompts`. image_size: see load_prompt_encoder.
    """

    def __init__(
        self, autoencoder: str | LatentSpace, text_encoder: str | Prompts, image_size: Size | None = None
    ) -> None:
        if isinstance(autoencoder, str):
            autoencoder = LatentSpace(load_autoencoder(autoencoder))
        if isinstance(text_encoder, str):
            text_encoder = load_prompt_encoder(text_encoder, image_size=image_size)
        self.latents, self.prompts = autoencoder, text_encoder
        self.null_condition = self.prompts.null_condition()  # each [1, ...]
        self.hashes = {"autoencoder": weights_sha256(self.latents.autoencoder)}
        self.hashes |= {name: weights_sha256(network) for name, network in self.prompts.networks.items()}

    @classmethod
    def of(cls, model: LatentDiffusion) -> "FrozenEncoders":
        """Those of a model whose network is frozen, too, and hashed with them."""
        encoders = cls(model.latents, model.prompts)
        encoders.hashes["network"] = weights_sha256(model.network)
        return encoders

    def to(self, device: torch.device | str) -> "FrozenEncoders":
        self.latents.to(device)
        self.prompts.to(device)
        self.null_condition = {name: value.to(device) for name, value in self.null_condition.items()}
        return self

    def check_network(self, config: Mapping[str, Any]) -> None:
        """ValueError in one line unless a UNet2DConditionModel or SD3Transformer2DModel with this config fits."""
        check_network(config, self.latents, self.prompts)
        if config["sample_size"] is None:
            raise ValueError("the network has no sample_size: give the size of the latents, which pipelines ask for")
        height_and_width(config["sample_size"], "sample_size")

    def store_hashes(self, checkpoint: dict[str, Any]) -> None:
        """Note in a checkpoint, which holds none of the frozen weights, what they are."""
        checkpoint["frozen"] = dict(self.hashes)

    def check_hashes(self, checkpoint: Mapping[str, Any]) -> None:
        """ValueError in one line if a checkpoint was trained with other weights."""
        stored = checkpoint.get("frozen")
        for part, present in self.hashes.items():
            if stored is not None and stored.get(part) != present:
                raise ValueError(f"the checkpoint was trained with another {part} ({stored.get(part)}, here {present})")

    def release_text_encoder(self, length: int | None = None) -> nn.Module:
        """The text encoder, that of a single CLIP, for a module that trains it: no longer frozen, nor hashed.

        length: see PromptEncoder.lengthen.
        """
        del self.hashes["text_encoder"]
        if length is not None and isinstance(self.prompts, PromptEncoder):  # no other has a single CLIP
            self.prompts.lengthen(length)
            self.null_condition = self.prompts.null_condition()
        return self.prompts.networks["text_encoder"].requires_grad_(True).train()

    @property
    def stored_names(self) -> list[str]:
        """The entries of a condition that differ from prompt to prompt, and that shards may hold."""
        return [name for name in self.null_condition if name != "time_ids"]

    def read(self, batch: Mapping[str, Any], training: bool) -> tuple[Tensor, Condition]:
        """Latents [B, C, h, w] and the condition, such as {"prompt": [B, L, D]}, float32.

        From `image` [B, 3, H, W] in [-1, 1] and `caption` list[str], or from `latent` [B, C, h, w] and `prompt`
        [B, K, L, D] (and `pooled` [B, K, P]) where the batch has them: training takes one of the K captions at random,
        evaluation the first. Captions that are too long are cut.
        """
        data = self.read_data(batch)
        if "prompt" not in batch:
            return data, self.prompts(batch["caption"], truncate=True)
        if lacking := [name for name in self.stored_names if name not in batch]:
            raise ValueError(f"the batch holds prompt, but not {lacking[0]}: read that array too, or neither of them")
        rows, several = batch["prompt"].shape[:2]
        row = torch.arange(rows, device=data.device)
        choice = torch.randint(several if training else 1, (rows,), device=data.device)
        chosen = {name: batch[name][row, choice].float() for name in self.stored_names}
        return data, {
            name: chosen[name] if name in chosen else null.expand(rows, -1)
            for name, null in self.null_condition.items()
        }

    def read_data(self, batch: Mapping[str, Any]) -> Tensor:
        """The latents alone."""
        data = batch["latent"].float() if "latent" in batch else self.latents.encode(batch["image"])
        self._check_size(data)
        return data

    def _check_size(self, data: Tensor) -> None:
        """SDXL is told one size, so pictures must have it."""
        told = getattr(self.prompts, "image_size", None)
        height, width = (side * self.latents.reduction for side in data.shape[-2:])
        if told is not None and (height, width) != told:
            raise ValueError(
                f"pictures of {height} x {width} px, but the network is told {as_text(told)}; give image_size"
            )

    def check_stored(self, batch: Mapping[str, Any]) -> None:
        """ValueError in one line where a sample's stored arrays are not what these networks make of it.

        Looks at the first sample of an evaluation batch that counts (`weight` [B] above 0).
        """
        real = batch["weight"].tolist()
        row = next((row for row, weight in enumerate(real) if weight > 0), None)
        if row is None or not {"latent", "prompt"} & batch.keys():
            return
        names = ("image", "caption", "latent", *self.stored_names)
        first = {name: batch[name][row : row + 1] for name in names if name in batch}
        stored, fresh = (self._arrays(part) for part in (first, {name: first[name] for name in names[:2]}))
        for name, value in stored.items():
            expected = fresh[name]
            if value.shape != expected.shape or (value - expected).norm() > TOLERANCE * expected.norm():
                raise ValueError(
                    f"the stored {name} of {batch['key'][row]} is not what these encoders make of it; "
                    "run python -m datamodules.prepare latents again, and read with its image_size"
                )

    def _arrays(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        data, condition = self.read(batch, training=False)
        return {"latent": data} | {name: condition[name] for name in self.stored_names}
