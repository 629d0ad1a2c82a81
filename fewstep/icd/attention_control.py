"""Prompt-to-prompt: an edit keeps the layout of its source by attending as the source does.

Hertz et al. 2022, in the way iCD edits with its decoder (Starodubcev et al. 2024, section 4.2). One pass has 2B rows, B
sources and then their B targets, or 4B of which the first 2B are the unconditional ones of `ClassifierFree`.

    edit = PromptToPrompt(sources, targets, tokenizer, num_steps=len(times) - 1)
    with attention_control(unet, edit) as control:
        for step, ends in enumerate(pairwise(times)):
            control.start(step)
            x = control.blend(ddim(denoiser, parametrization, x, ends, condition, guidance))  # x: [2B, C, h, w]

The guidance of the sources is 1, as `edit` of fewstep.icd.editing has it. Attention A V is linear in its values V, so a
map that moves from source to target tokens, (A M) V, is A (M V): no map is ever written out, all is one fused call.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d, pad, scaled_dot_product_attention

from fewstep.icd.prompt_to_prompt import PromptToPrompt

__all__ = ["AttentionControl", "PromptToPrompt", "attention_control"]


@contextmanager
def attention_control(unet: Any, edit: PromptToPrompt) -> Iterator["AttentionControl"]:
    """All attention of a diffusers UNet (that of SD1, SD2 or SDXL, also with adapters) is the control's within.

    Then the network has its own again, whatever happened. ValueError in one line for a network whose attention mixes
    image and text in one layer, such as that of SD3.
    """
    if any(getattr(module, "added_kv_proj_dim", None) is not None for module in unet.modules()):
        raise ValueError(
            f"prompt-to-prompt needs a UNet with cross-attention, got {type(unet).__name__}; switch prompts"
        )
    before = dict(unet.attn_processors)
    control = AttentionControl(edit, next(unet.parameters()).device)
    try:
        unet.set_attn_processor(control)
        yield control
    finally:
        unet.set_attn_processor(before)


class AttentionControl:
    """An attention processor for diffusers, and the state of one sampling run: the step and the maps for the blend.

    The step is told, not counted: solvers may call the network twice a step.
    """

    def __init__(self, edit: PromptToPrompt, device: torch.device | str = "cpu") -> None:
        self.edit, self.batch = edit, len(edit.source)
        self.token_maps, self.factors = edit.token_maps.to(device), edit.factors.to(device)
        self.words = edit.blend_tokens.to(device)
        new_tokens = (edit.token_maps.sum(1) == 0)[:, None, :, None]  # target tokens without a source
        self.new_tokens = new_tokens.to(device) if new_tokens.any() else None
        self.blends = bool(edit.blend_tokens.any())
        self.step: int | None = None
        self.seen: dict[int, Tensor] = {}  # attention to the blend words [2B, pixels] by pixels, over layers and steps
        self.blend_size: tuple[int, int] | None = None

    def start(self, step: int) -> None:
        """Say which step, from 0 on, the next calls of the network belong to; 0 starts a new run."""
        if not 0 <= step < self.edit.num_steps:
            raise ValueError(f"step {step} of an edit with num_steps {self.edit.num_steps}; count from 0")
        self.step = step
        if step == 0:
            self.seen, self.blend_size = {}, None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """What diffusers' AttnProcessor2_0 computes for its Attention `attn`, but for the edit."""
        residual, x = hidden_states, hidden_states
        self._check(x, encoder_hidden_states)
        if attn.spatial_norm is not None:
            x = attn.spatial_norm(x, temb)
        if residual.ndim == 4:
            x = x.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)
        context = x if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        query, key, value = (
            layer(states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # [rows, heads, tokens, D]
            for layer, states in ((attn.to_q, x), (attn.to_k, context), (attn.to_v, context))
        )
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], len(x))
        mask = None if mask is None else mask.unflatten(0, (len(x), attn.heads))
        attend = self._attend_to_image if encoder_hidden_states is None else self._attend_to_text
        x = attend(query, key, value, mask).transpose(1, 2).flatten(2).to(query.dtype)
        x = attn.to_out[1](attn.to_out[0](x))
        if residual.ndim == 4:
            x = x.transpose(1, 2).reshape(residual.shape)
        return (x + residual if attn.residual_connection else x) / attn.rescale_output_factor

    def _check(self, x: Tensor, context: Tensor | None) -> None:
        if self.step is None:
            raise RuntimeError("say control.start(step) before the network is called")
        if len(x) not in (2 * self.batch, 4 * self.batch):
            raise ValueError(f"{self.batch} edits need {2 * self.batch} rows, sources then targets; got {len(x)}")
        if context is not None and context.shape[1] != self.edit.length:
            raise ValueError(
                f"the edit is for prompts of length {self.edit.length}, the network got {context.shape[1]}"
            )

    def _source_for_target(self, rows: Tensor) -> Tensor:
        return torch.cat([rows[: -self.batch], rows[-2 * self.batch : -self.batch]])

    def _attend_to_image(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Self-attention: early on the source's map holds for the target as well."""
        if self.step < self.edit.self_steps and query.shape[2] <= self.edit.self_max_tokens:  # type: ignore[operator]
            query, key = self._source_for_target(query), self._source_for_target(key)
            mask = None if mask is None else self._source_for_target(mask)
        return scaled_dot_product_attention(query, key, value, attn_mask=mask)

    def _attend_to_text(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Cross-attention: early on the source's map is moved to the target's tokens, new ones keep the target's."""
        recorded = self.blends and (
            self.blend_size is None or query.shape[2] == self.blend_size[0] * self.blend_size[1]
        )
        if recorded:  # attention to the blend words, as one more value
            words = pad(self.words, (0, 0, len(value) - len(self.words), 0)).to(value.dtype)[:, None, :, None]
            value = torch.cat([value, words.expand(-1, value.shape[1], -1, -1)], -1)
        if self.step < self.edit.cross_steps:  # type: ignore[operator]
            attended = self._move_text(query, key, value, mask)
        else:
            attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        if recorded:
            seen = attended[-2 * self.batch :, ..., -1].float().mean(1)
            self.seen[seen.shape[1]] = self.seen.get(seen.shape[1], torch.zeros_like(seen)) + seen
            attended = attended[..., :-1]
        return attended

    def _move_text(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        size = self.batch
        target = value[-size:] * self.factors[:, None, :, None].to(value.dtype)
        moved = self.token_maps[:, None].to(value.dtype) @ target
        attended = scaled_dot_product_attention(
            self._source_for_target(query),
            self._source_for_target(key),
            torch.cat([value[:-size], moved.to(value.dtype)]),
            attn_mask=None if mask is None else self._source_for_target(mask),
        )
        if self.new_tokens is None:
            return attended
        own_mask = None if mask is None else mask[-size:]
        own = scaled_dot_product_attention(query[-size:], key[-size:], target * self.new_tokens, attn_mask=own_mask)
        return torch.cat([attended[:-size], attended[-size:] + own])

    def blend(self, x: Tensor) -> Tensor:
        """Latents [2B, C, h, w] after a step: targets become their sources where neither attends to the blend words.

        Maps of all steps so far, of the layers nearest to a quarter of the latents' height and width (16 of 64, as P2P
        has them).
        Rows without blend words, and all sources, are left as they are.
        """
        if not self.blends:
            return x
        self.blend_size = self.blend_size or self._nearest_to_quarter(*x.shape[-2:])
        maps = self.seen[self.blend_size[0] * self.blend_size[1]].unflatten(1, self.blend_size)[:, None]
        mask = interpolate(max_pool2d(maps, 3, 1, 1), size=x.shape[-2:])
        chosen = mask > self.edit.blend_threshold * mask.amax((2, 3), keepdim=True)  # false where no word is given
        named = self.words.any(1).view(2, -1).any(0)[:, None, None, None]  # edits with blend words
        source, target = x.chunk(2)
        keep = chosen[: self.batch] | chosen[self.batch :] | ~named
        return torch.cat([source, torch.where(keep, target, source)])

    def _nearest_to_quarter(self, height: int, width: int) -> tuple[int, int]:
        found = []
        for halvings in range(max(height, width).bit_length()):
            if height * width in self.seen:
                found.append((abs(halvings - 2), halvings, (height, width)))
            height, width = -(-height // 2), -(-width // 2)  # as a convolution of stride 2 has it
        if not found:
            raise ValueError("no cross-attention of these latents was seen; call the network, then blend")
        return min(found)[2]
