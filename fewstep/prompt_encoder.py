"""Prompts for a latent diffusion model: what it attends to."""

from typing import Any

import torch
from torch import Tensor


class PromptEncoder:
    """Prompts -> the states of every token that a Stable Diffusion network attends to.

    text_encoder, tokenizer: transformers' CLIPTextModel and CLIPTokenizer. Not an nn.Module: a network that holds one
    neither trains it nor stores it.
    """

    def __init__(self, text_encoder: Any, tokenizer: Any) -> None:
        self.text_encoder, self.tokenizer = text_encoder.eval().requires_grad_(False), tokenizer
        self.length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)  # in tokens
        self.width = text_encoder.config.hidden_size

    def to(self, device: torch.device | str) -> "PromptEncoder":
        self.text_encoder.to(device)
        return self

    @torch.no_grad()
    def __call__(self, prompts: list[str], truncate: bool = False) -> Tensor:
        """float32 [B, length, width]. A prompt that is too long is cut, or a one-line ValueError without `truncate`."""
        if not truncate:
            sizes = [len(ids) for ids in self.tokenizer(prompts).input_ids]
            for prompt, size in zip(prompts, sizes, strict=True):
                if size > self.length:
                    raise ValueError(f"prompt of {size} tokens, at most {self.length}; shorten {prompt[:60]!r}")
        ids = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        ).input_ids
        with torch.autocast(self.text_encoder.device.type, enabled=False):
            return self.text_encoder(ids.to(self.text_encoder.device)).last_hidden_state
