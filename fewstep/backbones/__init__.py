"""The one folder, beside image_reward.py, that imports diffusers, transformers and peft."""

from fewstep.backbones.adapters import Adapters
from fewstep.backbones.clip import (
    TransformersCLIP,
    TransformersCLIPTokenizer,
    clip_text_encoder,
    clip_tokenizer,
    load_clip_text_encoder,
    load_transformers_clip,
)
from fewstep.backbones.control import Control, load_control
from fewstep.backbones.denoisers import DiffusersDenoiser, add_guidance_embedding, has_guidance_embedding
from fewstep.backbones.guided_networks import load_guided_network, save_guided_network
from fewstep.backbones.pipelines import STABLE_DIFFUSION_SCHEDULER, load_pipeline, save_stable_diffusion
from fewstep.backbones.pretrained import copied_to, diffusers_network, load_autoencoder, load_dinov2, pretrained_unet
from fewstep.backbones.prompts import load_prompt_encoder
from fewstep.backbones.text_to_image import LatentDiffusion, check_network, load_latent_diffusion

__all__ = [
    "STABLE_DIFFUSION_SCHEDULER",
    "Adapters",
    "Control",
    "DiffusersDenoiser",
    "LatentDiffusion",
    "TransformersCLIP",
    "TransformersCLIPTokenizer",
    "add_guidance_embedding",
    "check_network",
    "clip_text_encoder",
    "clip_tokenizer",
    "copied_to",
    "diffusers_network",
    "has_guidance_embedding",
    "load_autoencoder",
    "load_clip_text_encoder",
    "load_control",
    "load_dinov2",
    "load_guided_network",
    "load_latent_diffusion",
    "load_pipeline",
    "load_prompt_encoder",
    "load_transformers_clip",
    "pretrained_unet",
    "save_guided_network",
    "save_stable_diffusion",
]
