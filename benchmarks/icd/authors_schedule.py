"""A plain transcription of how the authors of iCD train: three resident networks, four passes with a step after each.

Starodubcev et al. 2024; github.com/yandex-research/invertible-cd, training/train_icd_sd15_lora.py and training/src.
Integer times 0..999 and cumulated alphas, as there. Two students wrapped by peft and a teacher; an iteration is
reverse CD, forward CD, forward preservation, reverse preservation: ten calls of a network, four of them with gradient.
Their slip at t = 0 is not kept: the teacher's step into it ends at alpha 1, where the student's jump ends, too.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fewstep.diffusion.guidance import guidance_features

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"]
TARGETS += ["conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"]
LOWER, UPPER, FIRST = (0, 259, 519, 779), (259, 519, 779, 999), 19  # ends of the segments; where encoding starts
STEP = 20  # of the teacher's grid 19, 39, .., 999
WEIGHT = 1.5  # of the preservation losses


class Batch(NamedTuple):
    data: Tensor  # [B, 4, h, w], latents
    noise: Tensor
    prompt: Tensor  # [B, L, D]
    reverse_time: Tensor  # [B], on the grid
    forward_time: Tensor  # [B], on the grid, below 999
    segment: Tensor  # [B], 0..3
    guidance_scale: Tensor  # [B], 1 is unguided


class AuthorsSchedule:
    """network: a UNet2DConditionModel with guidance embedding. alphas_cumprod: [1000], of its schedule."""

    def __init__(self, network: nn.Module, alphas_cumprod: Tensor, rank: int, lr: float) -> None:
        from peft import LoraConfig, get_peft_model

        self.teacher: Any = copy.deepcopy(network).requires_grad_(False)
        self.reverse, self.forward = (
            get_peft_model(copy.deepcopy(network), LoraConfig(r=rank, lora_alpha=8, target_modules=TARGETS))
            for _ in range(2)
        )
        self.alphas_cumprod = alphas_cumprod.to(next(network.parameters()))
        self.optimizers = {
            student: torch.optim.AdamW(trained(student), lr=lr, weight_decay=0.0)
            for student in (self.reverse, self.forward)
        }

    def iteration(self, batch: Batch) -> dict[str, float]:
        losses = {}
        for name, student, weight in (
            ("reverse_cd", self.reverse, 1.0),
            ("forward_cd", self.forward, 1.0),
            ("forward_preservation", self.forward, WEIGHT),
            ("reverse_preservation", self.reverse, WEIGHT),
        ):
            loss = getattr(self, name)(batch)
            (weight * loss).backward()
            nn.utils.clip_grad_norm_(trained(student), 1.0)
            self.optimizers[student].step()
            self.optimizers[student].zero_grad(set_to_none=True)
            losses[name] = loss.item()
        return losses

    def reverse_cd(self, batch: Batch) -> Tensor:
        t, w = batch.reverse_time, batch.guidance_scale
        before = (t - STEP).clamp(min=0)
        end = torch.stack([torch.full_like(t, e).where(before >= e, torch.zeros_like(t)) for e in LOWER]).amax(0)
        return self._consistency(self.reverse, batch, t, before, end, w)

    def forward_cd(self, batch: Batch) -> Tensor:
        t = batch.forward_time
        after = t + STEP
        end = torch.stack([torch.full_like(t, e).where(after <= e, torch.full_like(t, 999)) for e in UPPER]).amin(0)
        return self._consistency(self.forward, batch, t, after, end, torch.ones_like(batch.guidance_scale))

    def _consistency(self, student: Any, batch: Batch, t: Tensor, near: Tensor, end: Tensor, w: Tensor) -> Tensor:
        x = self._noised(batch, t)
        prediction = self._jump(x, self._call(student, x, t, w, batch), t, end)
        with torch.no_grad():
            stepped = self._jump(x, self._call(self.teacher, x, t, w, batch), t, near)
            target = self._jump(stepped, self._call(student, stepped, near, w, batch), near, end)
            target = torch.where((near == end)[:, None, None, None], stepped, target)
        return huber(prediction, target)

    def forward_preservation(self, batch: Batch) -> Tensor:
        low, high, w = *self._segment(batch), torch.ones_like(batch.guidance_scale)
        x_high = self._noised(batch, high)
        with torch.no_grad():
            x = self._jump(x_high, self._call(self.reverse, x_high, high, w, batch), high, low)
        return huber(self._jump(x, self._call(self.forward, x, low, w, batch), low, high), x_high)

    def reverse_preservation(self, batch: Batch) -> Tensor:
        low, high, w = *self._segment(batch), torch.ones_like(batch.guidance_scale)
        x_low = self._noised(batch, low)
        with torch.no_grad():
            x = self._jump(x_low, self._call(self.forward, x_low, low, w, batch), low, high)
        return huber(self._jump(x, self._call(self.reverse, x, high, w, batch), high, low), x_low)

    def _segment(self, batch: Batch) -> tuple[Tensor, Tensor]:
        low, high = (torch.tensor(ends, device=batch.segment.device)[batch.segment] for ends in (LOWER, UPPER))
        return torch.where(low == 0, FIRST, low), high

    def _call(self, network: Any, x: Tensor, t: Tensor, w: Tensor, batch: Batch) -> Tensor:
        return network(x, t, encoder_hidden_states=batch.prompt, timestep_cond=guidance_features(w)).sample

    def _noised(self, batch: Batch, t: Tensor) -> Tensor:
        alpha, sigma = self._levels(t)
        return alpha * batch.data + sigma * batch.noise

    def _jump(self, x: Tensor, eps: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """A DDIM step; time 0 is the clean data."""
        (alpha, sigma), (end_alpha, end_sigma) = self._levels(t), self._levels(s)
        clean = (s == 0)[:, None, None, None]
        data = (x - sigma * eps) / alpha
        return torch.where(clean, data, end_alpha * data + end_sigma * eps)

    def _levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.alphas_cumprod[t][:, None, None, None]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def huber(prediction: Tensor, target: Tensor, c: float = 1e-3) -> Tensor:
    return (((prediction - target) ** 2 + c**2).sqrt() - c).mean()


def trained(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]
