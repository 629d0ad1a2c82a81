"""CLIP of transformers behind the methods of open_clip, and an open_clip text tower as transformers has it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.backbones.foreign_code import no_foreign_code
from fewstep.backbones.pretrained import from_pretrained
from fewstep.one_line import one_line


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

    clip, report = from_pretrained(
        CLIPModel, source, "model.safetensors", dtype=torch.float32, output_loading_info=True
    )
    if lacking := sorted(report["missing_keys"]):  # transformers would only print that they are random
        raise ValueError(f"{source} lacks {lacking[0]} ({len(lacking)} entries lacking); is it a whole CLIPModel?")
    words = from_pretrained(CLIPTokenizer, tokenizer, "tokenizer.json")
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
        with no_foreign_code():
            clip = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True, weights_only=True)
    except Exception as error:  # OSError, RuntimeError, KeyError, whatever the weight readers raise
        reason = one_line(error, 160)
        raise ValueError(f"cannot load a CLIP from the folder {folder}: {reason}") from None
    vocabulary = Path(folder, "bpe.txt.gz")
    tokenizer = clip_tokenizer(vocabulary if vocabulary.is_file() else None, clip.context_length)
    return clip_text_encoder(clip).requires_grad_(False), tokenizer
