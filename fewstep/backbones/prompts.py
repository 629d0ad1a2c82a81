"""Prompt encoders of published pipelines: Stable Diffusion 1 and 2, SDXL, Stable Diffusion 3."""

from pathlib import Path
from typing import Any

import torch

from fewstep.backbones.clip import load_clip_text_encoder
from fewstep.backbones.pretrained import from_pretrained, frozen_network, network_config, own_or_part
from fewstep.diffusion.prompt_encoder import PromptEncoder, Prompts, SD3PromptEncoder, SDXLPromptEncoder
from fewstep.files.hub import missing
from fewstep.picture_size import Size, height_and_width


def pipeline_parts(source: str | Path) -> dict[str, Any]:
    """{part: its class} of a pipeline (folder or hub id) without those it leaves empty; other entries as they are.

    ValueError in one line where there is no model_index.json.
    """
    from diffusers import DiffusionPipeline

    try:
        index = DiffusionPipeline.load_config(str(source))
    except (OSError, ValueError) as error:
        raise ValueError(missing(source, "model_index.json", error)) from None
    parts = {name: entry[1] if isinstance(entry, list) else entry for name, entry in index.items()}
    return {name: entry for name, entry in parts.items() if entry is not None}


def load_prompt_encoder(
    source: str | Path, dtype: torch.dtype = torch.float32, image_size: Size | None = None
) -> Prompts:
    """From a pipeline (folder or hub id) of one of the kinds above, or an open_clip folder such as assets/clip_emoji.

    Also reads a folder with both a CLIPTextModel and its tokenizer. Frozen, on the CPU. image_size: of the
    pictures in pixels, of which SDXL's network is told; by default that of the pipeline.
    """
    if Path(source, "open_clip_config.json").is_file():
        encoder, tokenizer = load_clip_text_encoder(source)
        return PromptEncoder(encoder.to(dtype), tokenizer)
    plain = Path(source).is_dir() and not Path(source, "model_index.json").is_file()
    parts = {} if plain else pipeline_parts(source)
    if "transformer" in parts:
        return _of_sd3(source, parts, dtype)
    if "text_encoder_2" in parts:
        return _of_sdxl(source, parts, dtype, image_size)
    return PromptEncoder(*_clip(source, "", dtype))


def _clip(source: str | Path, suffix: str, dtype: torch.dtype, projected: bool = False) -> tuple[Any, Any]:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    encoder = frozen_network(kind, source, f"text_encoder{suffix}", "model.safetensors", dtype)
    return encoder, _tokenizer(CLIPTokenizer, source, f"tokenizer{suffix}")


def _tokenizer(kind: Any, source: str | Path, part: str) -> Any:
    options = own_or_part(source, part, "tokenizer_config.json")
    return from_pretrained(kind, source, f"{part}/tokenizer_config.json", **options)


def _of_sdxl(
    source: str | Path, parts: dict[str, Any], dtype: torch.dtype, image_size: Size | None
) -> SDXLPromptEncoder:
    if "text_encoder" not in parts:
        raise ValueError(f"{source} has no first text encoder, as SDXL's refiner; name an SDXL base pipeline")
    if image_size is None:
        halvings = len(network_config(source, "vae")["block_out_channels"]) - 1
        height, width = height_and_width(network_config(source, "unet").get("sample_size"), f"{source}: sample_size")
        image_size = height * 2**halvings, width * 2**halvings
    first, second = _clip(source, "", dtype), _clip(source, "_2", dtype, projected=True)
    encoders, tokenizers = ([pair[number] for pair in (first, second)] for number in (0, 1))
    return SDXLPromptEncoder(encoders, tokenizers, image_size, bool(parts.get("force_zeros_for_empty_prompt", True)))


def _of_sd3(source: str | Path, parts: dict[str, Any], dtype: torch.dtype) -> SD3PromptEncoder:
    from transformers import T5EncoderModel, T5Tokenizer

    if parts["transformer"] != "SD3Transformer2DModel" or not {"text_encoder", "text_encoder_2"} <= parts.keys():
        kinds = f"a {parts['transformer']} and {parts.get('text_encoder')}"
        raise ValueError(f"{source} draws with {kinds}; supported are pipelines of Stable Diffusion 1, 2, XL and 3")
    first, second = (_clip(source, suffix, dtype, projected=True) for suffix in ("", "_2"))
    encoders, tokenizers = ([pair[number] for pair in (first, second)] for number in (0, 1))
    width, t5, words = network_config(source, "transformer")["joint_attention_dim"], None, None
    if "text_encoder_3" in parts:
        t5 = frozen_network(T5EncoderModel, source, "text_encoder_3", "model.safetensors", dtype)
        words = _tokenizer(T5Tokenizer, source, "tokenizer_3")
    return SD3PromptEncoder(encoders, tokenizers, width, t5, words)
