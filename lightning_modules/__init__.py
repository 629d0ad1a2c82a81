"""One method, one file, one class. Class paths are stored in checkpoints, hence public.

A module computes, logs and returns; schedules, solvers, files, plots and metric objects live elsewhere. What
`validation_step` and `test_step` return is read by the callbacks: for images `image` [B, 3, H, W] in [-1, 1] in batch
order with optional `reference`, `reconstruction`, `score` [B], `nfe` [B]; for vectors `nll` [B] and `sample` [B, Dy].
"""

from lightning_modules.attribute_reader import AttributeReaderModule
from lightning_modules.autoencoder import AutoencoderModule
from lightning_modules.collaboration import CollaborationModule
from lightning_modules.contrastive import ContrastiveModule
from lightning_modules.diffusion_teacher import DiffusionTeacherModule
from lightning_modules.fast_edit import FastEditModule
from lightning_modules.guidance_distillation import GuidanceDistillationModule
from lightning_modules.icd import ICDModule
from lightning_modules.ot_conditional import OTConditionalModule
from lightning_modules.preference_reward import PreferenceRewardModule
from lightning_modules.unconditional_diffusion import UnconditionalDiffusionModule

__all__ = [
    "AttributeReaderModule",
    "AutoencoderModule",
    "CollaborationModule",
    "ContrastiveModule",
    "DiffusionTeacherModule",
    "FastEditModule",
    "GuidanceDistillationModule",
    "ICDModule",
    "OTConditionalModule",
    "PreferenceRewardModule",
    "UnconditionalDiffusionModule",
]
