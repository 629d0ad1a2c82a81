"""The one file, beside image_reward.py, that imports diffusers and transformers."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.hub_files import missing
from fewstep.prompt_encoder import PromptEncoder


class TransformersCLIP(nn.Module):
    """A transformers CLIPModel behind open_clip's two methods."""

    def __init__(self, clip: Any):
        super().__init__()
        self.clip = clip

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, size, size] -> embeddings [B, D], not normalised."""
        return self.clip.get_image_features(pixel_values=pixels).pooler_output

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """Token ids [B, L] -> embeddings [B, D], not normalised. Needs no mask: what follows the end is not seen."""
        return self.clip.get_text_features(input_ids=token_ids).pooler_output


class TransformersCLIPTokenizer:
    """A transformers CLIP tokenizer called as open_clip calls its own; cuts long prompts and keeps the end token."""

    def __init__(self, tokenizer: Any, context_length: int):
        self.tokenizer, self.context_length = tokenizer, context_length

    def __call__(self, prompts: list[str], context_length: int | None = None) -> Tensor:
        """Token ids int64 [B, context_length]."""
        length = context_length or self.context_length
        encoded = self.tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return encoded.input_ids


def load_transformers_clip(
    source: str | Path, tokenizer: str | Path
) -> tuple[TransformersCLIP, TransformersCLIPTokenizer]:
    """CLIPModel and CLIP tokenizer from `save_pretrained` folders or hub ids; frozen, eval mode, float32 on the CPU."""
    from transformers import CLIPModel, CLIPTokenizer

    clip, report = _from_pretrained(
        CLIPModel, source, "model.safetensors", dtype=torch.float32, output_loading_info=True
    )
    if lacking := sorted(report["missing_keys"]):  # transformers would only print that they are random
        raise ValueError(f"{source} lacks {lacking[0]} ({len(lacking)} entries lacking); is it a whole CLIPModel?")
    words = _from_pretrained(CLIPTokenizer, tokenizer, "tokenizer.json")
    context_length = clip.config.text_config.max_position_embeddings
    return TransformersCLIP(clip).eval().requires_grad_(False), TransformersCLIPTokenizer(words, context_length)


def clip_tokenizer(vocabulary: str | Path | None, context_length: int) -> Any:
    """transformers' CLIPTokenizer with the token ids of open_clip.SimpleTokenizer(bpe_path=vocabulary).

    It pads with the end token, as Stable Diffusion 1 does, where open_clip pads with 0; no tower of either sees these.
    """
    import open_clip
    from transformers import CLIPTokenizer

    original = open_clip.SimpleTokenizer(**({"bpe_path": vocabulary} if vocabulary else {}))
    special = {original.sot_token_id: "<|startoftext|>", original.eot_token_id: "<|endoftext|>"}
    ids = {special.get(number, token): number for token, number in original.encoder.items()}
    merges = [pair for pair in original.bpe_ranks if len(pair) == 2]  # its file ends in an empty line
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=context_length)


def clip_text_encoder(clip: Any) -> Any:
    """The text tower of an `open_clip.CLIP` as a transformers CLIPTextModel, in eval mode, for a diffusers pipeline.

    last_hidden_state is open_clip's output before pooling, after the final norm; pooler_output its row at the end.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    blocks, width = clip.transformer.resblocks, clip.ln_final.normalized_shape[0]
    activation = {"GELU": "gelu", "QuickGELU": "quick_gelu"}[type(blocks[0].mlp.gelu).__name__]
    config = CLIPTextConfig(
        vocab_size=clip.vocab_size,
        hidden_size=width,
        intermediate_size=blocks[0].mlp.c_fc.out_features,
        num_hidden_layers=len(blocks),
        num_attention_heads=blocks[0].attn.num_heads,
        max_position_embeddings=clip.context_length,
        projection_dim=width,
        hidden_act=activation,
        layer_norm_eps=clip.ln_final.eps,
        bos_token_id=clip.vocab_size - 2,
        eos_token_id=clip.vocab_size - 1,
        pad_token_id=clip.vocab_size - 1,
    )
    model = CLIPTextModel(config)
    state = _text_state(clip)
    prefix = "text_model." if any(name.startswith("text_model.") for name in model.state_dict()) else ""
    model.load_state_dict({prefix + name: value for name, value in state.items()}, strict=True)
    return model.eval()


def _text_state(clip: Any) -> dict[str, Tensor]:
    """open_clip's names -> transformers 5's. https://huggingface.co/docs/transformers/model_doc/clip"""
    state = {
        "embeddings.token_embedding.weight": clip.token_embedding.weight,
        "embeddings.position_embedding.weight": clip.positional_embedding,
        "final_layer_norm.weight": clip.ln_final.weight,
        "final_layer_norm.bias": clip.ln_final.bias,
    }
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    parts |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for number, block in enumerate(clip.transformer.resblocks):
        layer = f"encoder.layers.{number}"
        for kind in ("weight", "bias"):
            stacked = getattr(block.attn, f"in_proj_{kind}").chunk(3)
            state |= {f"{layer}.self_attn.{n}_proj.{kind}": v for n, v in zip("qkv", stacked, strict=True)}
            state |= {f"{layer}.{new}.{kind}": getattr(block.get_submodule(old), kind) for old, new in parts.items()}
    return {name: value.detach() for name, value in state.items()}


def load_clip_text_encoder(folder: str | Path) -> tuple[Any, Any]:
    """(CLIPTextModel, CLIPTokenizer) of an open_clip folder such as assets/clip_emoji, for a diffusers pipeline.

    Frozen, float32 on the CPU. ValueError in one line where the folder holds no such network.
    """
    import open_clip

    try:
        clip = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)
    except Exception as error:  # OSError, RuntimeError, KeyError, whatever the weight readers raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise ValueError(f"cannot load a CLIP from the folder {folder}: {reason}") from None
    vocabulary = Path(folder, "bpe.txt.gz")
    tokenizer = clip_tokenizer(vocabulary if vocabulary.is_file() else None, clip.context_length)
    return clip_text_encoder(clip).requires_grad_(False), tokenizer


def _from_pretrained(kind: Any, source: str | Path, filename: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(str(source), **options)
    except (OSError, ValueError) as error:
        raise ValueError(missing(source, filename, error)) from None


def load_dinov2(source: str | Path) -> tuple[Any, int]:
    """(Dinov2Model, number of features) from a `save_pretrained` folder or hub id; frozen, float32 on the CPU."""
    from transformers import Dinov2Model

    model, report = _from_pretrained(
        Dinov2Model, source, "model.safetensors", dtype=torch.float32, output_loading_info=True
    )
    if lacking := sorted(report["missing_keys"]):  # transformers would only print that they are random
        raise ValueError(f"{source} lacks {lacking[0]} ({len(lacking)} entries lacking); is it a whole Dinov2Model?")
    return model.eval().requires_grad_(False), model.config.hidden_size


def load_pipeline(folder: str | Path) -> Any:
    """The diffusers pipeline of a `save_pretrained` folder; frozen, float32 on the CPU, without its safety checker.

    Reads safetensors only and runs no code of the folder. ValueError in one line where that is not enough.
    """
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    bars = [log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()]
    for log in bars:
        log.disable_progress_bar()
    try:
        index = json.loads(Path(folder, "model_index.json").read_text())
        if "safety_checker" in index:  # it blackens pictures, which no metric knows of
            options |= {"safety_checker": None, "requires_safety_checker": False}
        pipeline = DiffusionPipeline.from_pretrained(str(folder), **options)
    except Exception as error:  # OSError, ValueError, TypeError, AttributeError, whatever the readers raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"cannot load the diffusers pipeline {folder}: {reason}") from None
    finally:
        for log in bars:
            log.enable_progress_bar()
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.float().eval().requires_grad_(False)
    return pipeline


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


def diffusers_network(name: str, config: dict[str, Any]) -> nn.Module:
    """An untrained network of diffusers, such as AutoencoderKL or UNet2DConditionModel.

    config: what its config.json would hold; the class's own default stands for what is absent. ValueError in one line
    for an unknown class or entry. (Class paths into diffusers work for few of its classes: their type hints are wrong.)
    """
    import inspect

    import diffusers

    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin)):
        raise ValueError(f"diffusers has no network {name!r}; choose UNet2DConditionModel, AutoencoderKL or the like")
    known = set(inspect.signature(kind.__init__).parameters)
    if unknown := sorted(set(config) - known):
        raise ValueError(f"{name} has no config entry {unknown[0]!r}; see its page in diffusers' documentation")
    try:
        return kind.from_config(config)
    except (ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ValueError(f"{name} cannot be built from this config: {reason}") from None


def load_autoencoder(source: str | Path) -> Any:
    """AutoencoderKL, AutoencoderTiny, ... from its folder, a pipeline's folder or a pipeline's hub id.

    Frozen, eval mode, float32 on the CPU.
    """
    import diffusers

    options = {} if Path(source, "config.json").is_file() else {"subfolder": "vae"}
    try:
        name = str(diffusers.AutoencoderKL.load_config(str(source), **options).get("_class_name"))
    except (OSError, ValueError) as error:
        raise ValueError(missing(source, "vae/config.json", error)) from None
    if not name.startswith("Autoencoder") or not hasattr(diffusers, name):
        raise ValueError(f"{source} holds a {name}, not an autoencoder of diffusers; name the folder of one")
    return _frozen_network(getattr(diffusers, name), source, "vae", "diffusion_pytorch_model.safetensors")


def _frozen_network(kind: Any, source: str | Path, part: str, filename: str) -> Any:
    """A whole network from its own local folder, or from the part of a pipeline in a folder or on a hub."""
    options: dict[str, Any] = {} if Path(source, "config.json").is_file() else {"subfolder": part}
    model, report = _from_pretrained(
        kind, source, f"{part}/{filename}", use_safetensors=True, output_loading_info=True, **options
    )
    if lacking := sorted(report["missing_keys"]):  # the libraries would only print that they are random
        raise ValueError(f"{source} lacks {lacking[0]} ({len(lacking)} entries lacking); is it a whole {part}?")
    return model.float().eval().requires_grad_(False)


def load_prompt_encoder(source: str | Path) -> PromptEncoder:
    """From an open_clip folder such as assets/clip_emoji, or a Stable Diffusion pipeline (folder or hub id).

    Frozen, float32 on the CPU. Also reads a folder with both a CLIPTextModel and its tokenizer.
    """
    if Path(source, "open_clip_config.json").is_file():
        return PromptEncoder(*load_clip_text_encoder(source))
    from transformers import CLIPTextModel, CLIPTokenizer

    encoder = _frozen_network(CLIPTextModel, source, "text_encoder", "model.safetensors")
    options: dict[str, Any] = {} if Path(source, "tokenizer_config.json").is_file() else {"subfolder": "tokenizer"}
    return PromptEncoder(encoder, _from_pretrained(CLIPTokenizer, source, "tokenizer/tokenizer_config.json", **options))


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

    foreign = {"eps": "epsilon", "v": "v_prediction"}[prediction]
    pipeline: Any = StableDiffusionPipeline(
        unet=copied_to(unet, dtype),
        vae=copied_to(autoencoder, dtype),
        text_encoder=copied_to(prompts.text_encoder, dtype),
        tokenizer=prompts.tokenizer,
        scheduler=DDIMScheduler(**STABLE_DIFFUSION_SCHEDULER, prediction_type=foreign),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(str(folder))
    # diffusers computes in float32 unless told otherwise, transformers in what config.json says.
    config = Path(folder, "text_encoder", "config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")


def copied_to(network: Any, dtype: torch.dtype) -> Any:
    """A copy on the CPU with its floating-point weights in this dtype; `.to(dtype)` of diffusers would warn."""
    copied = copy.deepcopy(network).cpu().eval()
    for weight in (*copied.parameters(), *copied.buffers()):
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)
    return copied
