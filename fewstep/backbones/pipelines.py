"""Whole pipelines of diffusers: read from untrusted folders, or written for plain diffusers to load."""

import json
from importlib import util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewstep.backbones.pretrained import copied_to, frozen_network, reading
from fewstep.diffusion.prompt_encoder import PromptEncoder
from fewstep.files.plain_json import read_json
from fewstep.one_line import one_line

# The noise schedule of Stable Diffusion. `trailing` steps of a pipeline are `even_times` of our solvers.
STABLE_DIFFUSION_SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 1,  # without effect on trailing steps, but pipelines warn of any other value
    "timestep_spacing": "trailing",
}
# That of DDPM (Ho et al. 2020), which DDPMPipelines of pixels have; "squaredcos_cap_v2" is the cosine schedule of
# Nichol and Dhariwal 2021, which dwells on fewer levels of almost pure noise: for small pictures.
PIXEL_SCHEDULES = ("linear", "squaredcos_cap_v2")
DDPM_SCHEDULER = {
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "num_train_timesteps": 1000,
    "clip_sample": True,
    "timestep_spacing": "trailing",
}
FOREIGN = {"eps": "epsilon", "v": "v_prediction"}


def load_pipeline(folder: str | Path) -> Any:
    """The diffusers pipeline of a `save_pretrained` folder; frozen, float32 on the CPU, without its safety checker.

    Reads safetensors only and runs no code of the folder. ValueError in one line where that is not enough.
    """
    from diffusers import DiffusionPipeline

    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    try:
        index = read_json(Path(folder, "model_index.json"))
        _require_known_parts(Path(folder), index)
        if "safety_checker" in index:  # it blackens pictures, which no metric knows of
            options |= {"safety_checker": None, "requires_safety_checker": False}
        options |= {name: None for name, part in index.items() if part == [None, None]}  # SD3 without T5, say
        parts = {name: part for name, part in index.items() if name not in options}
        options |= _networks(folder, parts)
        with reading(folder):
            pipeline = DiffusionPipeline.from_pretrained(str(folder), **options)
    except Exception as error:  # OSError, ValueError, TypeError, AttributeError, whatever the readers raise
        reason = one_line(error)
        raise ValueError(f"cannot load the diffusers pipeline {folder}: {reason}") from None
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.float().eval().requires_grad_(False)
    return pipeline


def _networks(folder: str | Path, parts: dict[str, Any]) -> dict[str, nn.Module]:
    """The networks among the parts, each whole: a pipeline would fill what a file lacks with noise, without a word."""
    import diffusers
    import transformers

    found = {}
    for name, part in parts.items():
        library = {"diffusers": diffusers, "transformers": transformers}.get(part[0] if isinstance(part, list) else "")
        kind = getattr(library, str(part[1]), None) if library else None
        if isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin | transformers.PreTrainedModel):
            file = "model.safetensors" if library is transformers else "diffusion_pytorch_model.safetensors"
            found[name] = frozen_network(kind, folder, name, file)
    return found


def _require_known_parts(folder: Path, index: Any) -> None:
    """ValueError where the folder brings code or names a library that diffusers would import, or ask about."""
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise ValueError("its _class_name is not that of a pipeline of diffusers")
    if code := sorted(folder.glob("**/custom_generate/*.py")):
        raise ValueError(f"{code[0].relative_to(folder)} is code, and none of a folder is run")
    for name, part in index.items():
        library = part[0] if isinstance(part, list) and part else None
        if library in (None, "diffusers", "transformers"):
            continue
        if not str(library).isidentifier() or util.find_spec(f"diffusers.pipelines.{library}") is None:
            raise ValueError(f"its {name} is of {library!r}; parts are those of diffusers and transformers")


def save_stable_diffusion(
    folder: str | Path,
    unet: Any,
    autoencoder: Any,
    prompts: PromptEncoder,
    prediction: str = "eps",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a StableDiffusionPipeline with a DDIM scheduler on STABLE_DIFFUSION_SCHEDULER; prediction "eps" or "v"."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline: Any = StableDiffusionPipeline(
        unet=copied_to(unet, dtype),
        vae=copied_to(autoencoder, dtype),
        text_encoder=copied_to(prompts.text_encoder, dtype),
        tokenizer=prompts.tokenizer,
        scheduler=DDIMScheduler(**STABLE_DIFFUSION_SCHEDULER, prediction_type=FOREIGN[prediction]),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(str(folder))
    # diffusers computes in float32 unless told otherwise, transformers in what config.json says.
    config = Path(folder, "text_encoder", "config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")


def save_ddpm(
    folder: str | Path,
    unet: Any,
    prediction: str = "eps",
    dtype: torch.dtype = torch.float32,
    beta_schedule: str = "linear",
) -> None:
    """Write a DDPMPipeline of a UNet2DModel; prediction "eps" or "v", beta_schedule one of PIXEL_SCHEDULES."""
    from diffusers import DDPMPipeline, DDPMScheduler

    config = DDPM_SCHEDULER | {"beta_schedule": beta_schedule, "prediction_type": FOREIGN[prediction]}
    scheduler = DDPMScheduler(**config)
    pipeline: Any = DDPMPipeline(unet=copied_to(unet, dtype), scheduler=scheduler)
    pipeline.save_pretrained(str(folder))
