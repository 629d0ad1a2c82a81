"""The one folder, beside image_reward.py, that imports diffusers, transformers and peft."""

from fewstep.backbones.clip import (
    TransformersCLIP,
    TransformersCLIPTokenizer,
    clip_text_encoder,
    clip_tokenizer,
    load_clip_text_encoder,
    load_transformers_clip,
)
from fewstep.backbones.pipelines import (
    STABLE_DIFFUSION_SCHEDULER,
    load_pipeline,
    load_prompt_encoder,
    save_stable_diffusion,
)
from fewstep.backbones.pretrained import copied_to, diffusers_network, load_autoencoder, load_dinov2

__all__ = [
    "STABLE_DIFFUSION_SCHEDULER",
    "TransformersCLIP",
    "TransformersCLIPTokenizer",
    "clip_text_encoder",
    "clip_tokenizer",
    "copied_to",
    "diffusers_network",
    "load_autoencoder",
    "load_clip_text_encoder",
    "load_dinov2",
    "load_pipeline",
    "load_prompt_encoder",
    "load_transformers_clip",
    "save_stable_diffusion",
]
