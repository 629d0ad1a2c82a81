"""Prompts for a latent diffusion model: what it is conditioned on, one class for each kind of pipeline.

An encoder is called as `prompts(list of B str, truncate=False) -> Condition`, float32: "prompt" [B, L, D], the states
of every token; SDXL and SD3 add "pooled" [B, P], one vector of the whole prompt, and SDXL "time_ids" [B, 6], the size
of the picture. A prompt that is too long is cut, or a one-line ValueError without `truncate`.

Also: `null_condition()`, each [1, ...], what the network learnt in place of a prompt; `length` and `width`, the L of
CLIP and the D; `tokenizer`, that of the (first) CLIP; `networks`, all encoders by their names in a pipeline;
`to(device)`; `network_sizes(config)`, what the config of a network for these states has. None is an nn.Module: a
network that holds one neither trains it nor stores it. Encoders and tokenizers are those of transformers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.diffusion.guidance import Condition
from fewstep.picture_size import Size, height_and_width


class PromptEncoder:
    """Stable Diffusion 1 and 2: the last states of one CLIPTextModel."""

    def __init__(self, text_encoder: Any, tokenizer: Any) -> None:
        self.text_encoder, self.tokenizer = text_encoder.eval().requires_grad_(False), tokenizer
        self.networks = {"text_encoder": self.text_encoder}
        self.length, self.width = _length(text_encoder, tokenizer), text_encoder.config.hidden_size

    def to(self, device: torch.device | str) -> "PromptEncoder":
        self.text_encoder.to(device)
        return self

    def network_sizes(self, config: Mapping[str, Any]) -> dict[str, int]:
        return {"cross_attention_dim": self.width}

    def null_condition(self) -> Condition:
        return self([""])

    @torch.no_grad()
    def __call__(self, prompts: list[str], truncate: bool = False) -> Condition:
        return self.with_gradients(prompts, truncate)

    def with_gradients(self, prompts: list[str], truncate: bool = False) -> Condition:
        """The same, for whoever trains the text encoder."""
        ids = token_ids(self.tokenizer, prompts, self.length, truncate)
        return {"prompt": _encoded(self.text_encoder, ids).last_hidden_state.float()}

    def lengthen(self, length: int) -> None:
        """Take prompts of `length` tokens, more than before: further positions begin as the last that was learnt.

        What shorter prompts become does not change, but for the padding after them. Train it before it is used.
        """
        if length < self.length:
            raise ValueError(f"text_length={length}: the text encoder takes {self.length} tokens already; leave it out")
        embeddings = next(m for m in self.text_encoder.modules() if hasattr(m, "position_embedding"))
        known = embeddings.position_embedding.weight.data
        rows = torch.cat([known[: self.length], known[self.length - 1 : self.length].expand(length - self.length, -1)])
        embeddings.position_embedding = nn.Embedding.from_pretrained(
            rows.clone(), freeze=not embeddings.position_embedding.weight.requires_grad
        )
        embeddings.position_ids = torch.arange(length, device=known.device)[None]
        self.text_encoder.config.max_position_embeddings = self.tokenizer.model_max_length = length
        self.length = length


class SDXLPromptEncoder:
    """SDXL: the last but one states of two CLIPs beside each other, and the pooled ones of the second.

    Podell et al. 2023, sections 2.1 and 2.2. text_encoders: CLIPTextModel, CLIPTextModelWithProjection.
    image_size: of the pictures in pixels; the network is told (H, W, 0, 0, H, W), that size and uncropped.
    zero_null: the null condition is zeros, as SDXL's base has it (`force_zeros_for_empty_prompt`), not that of "".
    """

    def __init__(self, text_encoders: list[Any], tokenizers: list[Any], image_size: Size, zero_null: bool) -> None:
        self.text_encoders = [encoder.eval().requires_grad_(False) for encoder in text_encoders]
        self.tokenizers, self.tokenizer = tokenizers, tokenizers[0]
        self.networks = dict(zip(("text_encoder", "text_encoder_2"), self.text_encoders, strict=True))
        self.image_size, self.zero_null = height_and_width(image_size), zero_null
        self.length = min(_length(*pair) for pair in zip(text_encoders, tokenizers, strict=True))
        self.width = sum(encoder.config.hidden_size for encoder in text_encoders)
        self.pooled_width = text_encoders[1].config.projection_dim

    def to(self, device: torch.device | str) -> "SDXLPromptEncoder":
        for encoder in self.text_encoders:
            encoder.to(device)
        return self

    def network_sizes(self, config: Mapping[str, Any]) -> dict[str, int]:
        added = self.pooled_width + 6 * (config.get("addition_time_embed_dim") or 0)
        return {"cross_attention_dim": self.width, "projection_class_embeddings_input_dim": added}

    def null_condition(self) -> Condition:
        null = dict(self([""]))
        if self.zero_null:
            null |= {name: torch.zeros_like(null[name]) for name in ("prompt", "pooled")}
        return null

    @torch.no_grad()
    def __call__(self, prompts: list[str], truncate: bool = False) -> Condition:
        states, pooled = _two_clips(self.text_encoders, self.tokenizers, prompts, self.length, truncate)
        time_ids = states.new_tensor([[*self.image_size, 0, 0, *self.image_size]]).expand(len(prompts), -1)
        return {"prompt": states, "pooled": pooled[1], "time_ids": time_ids}


class SD3PromptEncoder:
    """Stable Diffusion 3: states of two CLIPs, padded to the width of T5, and after them the tokens of T5.

    Esser et al. 2024, section 4. text_encoders: two CLIPTextModelWithProjection. t5, t5_tokenizer: T5EncoderModel and
    its tokenizer; without them there are zeros in their place, as in training. width: that of T5, [D].
    """

    def __init__(
        self,
        text_encoders: list[Any],
        tokenizers: list[Any],
        width: int,
        t5: Any = None,
        t5_tokenizer: Any = None,
        t5_length: int = 256,
    ) -> None:
        self.text_encoders = [encoder.eval().requires_grad_(False) for encoder in text_encoders]
        self.tokenizers, self.tokenizer = tokenizers, tokenizers[0]
        self.networks = dict(zip(("text_encoder", "text_encoder_2"), self.text_encoders, strict=True))
        if t5 is not None:
            self.networks["text_encoder_3"] = t5.eval().requires_grad_(False)
        self.t5, self.t5_tokenizer, self.t5_length, self.width = t5, t5_tokenizer, t5_length, width
        self.length = min(_length(*pair) for pair in zip(text_encoders, tokenizers, strict=True))
        self.pooled_width = sum(encoder.config.projection_dim for encoder in text_encoders)

    def to(self, device: torch.device | str) -> "SD3PromptEncoder":
        for encoder in self.networks.values():
            encoder.to(device)
        return self

    def network_sizes(self, config: Mapping[str, Any]) -> dict[str, int]:
        return {"joint_attention_dim": self.width, "pooled_projection_dim": self.pooled_width}

    def null_condition(self) -> Condition:
        return self([""])

    @torch.no_grad()
    def __call__(self, prompts: list[str], truncate: bool = False) -> Condition:
        clip, pooled = _two_clips(self.text_encoders, self.tokenizers, prompts, self.length, truncate)
        if self.t5 is None:
            long = clip.new_zeros(len(prompts), self.t5_length, self.width)
        else:
            ids = token_ids(self.t5_tokenizer, prompts, self.t5_length, truncate)
            long = _encoded(self.t5, ids).last_hidden_state.float()
        states = torch.cat([F.pad(clip, (0, self.width - clip.shape[-1])), long], 1)
        return {"prompt": states, "pooled": torch.cat(pooled, 1)}


Prompts = PromptEncoder | SDXLPromptEncoder | SD3PromptEncoder


def token_ids(tokenizer: Any, prompts: list[str], length: int, truncate: bool) -> Tensor:
    """int64 [B, length], padded as the tokenizer pads. ValueError in one line for a longer prompt, if not to be cut."""
    if not truncate:
        for prompt, ids in zip(prompts, tokenizer(prompts).input_ids, strict=True):
            if len(ids) > length:
                raise ValueError(f"prompt of {len(ids)} tokens, at most {length}; shorten {prompt[:60]!r}")
    padded = tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return padded.input_ids


def _length(text_encoder: Any, tokenizer: Any) -> int:
    return min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)


def _two_clips(
    encoders: list[Any], tokenizers: list[Any], prompts: list[str], length: int, truncate: bool
) -> tuple[Tensor, list[Tensor]]:
    """The last but one states of both [B, L, D1 + D2], and the first output of each: pooled if it has a projection."""
    states, pooled = [], []
    for encoder, tokenizer in zip(encoders, tokenizers, strict=True):
        output = _encoded(encoder, token_ids(tokenizer, prompts, length, truncate), output_hidden_states=True)
        states.append(output.hidden_states[-2].float())
        pooled.append(output[0].float())
    return torch.cat(states, -1), pooled


def _encoded(encoder: Any, ids: Tensor, **options: Any) -> Any:
    with torch.autocast(encoder.device.type, enabled=False):
        return encoder(ids.to(encoder.device), **options)
