"""ImageReward: how much would a person like this picture for this prompt?

Xu et al. 2023, ImageReward: Learning and Evaluating Human Preferences for Text-to-Image Generation, on transformers'
BLIP classes: a ViT reads the picture, BERT reads the prompt with cross-attention to it, a linear head scores [CLS].
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.files.hub import check_keys, read_weights, weights_file
from fewstep.pixels import CutPrompts, Preprocessing, check_images_and_prompts, pixel_values

SCORE_MEAN, SCORE_STD = 0.16717362830052426, 1.0333394966054072  # so that scores are about N(0, 1) on people's data
MAX_TOKENS = 35  # [CLS] and [SEP] included; BLIP's and so the published scorer's

# Published name -> name here; what is not listed is an error, so that no tensor is left out or random unnoticed.
RENAMED = [
    (r"blip\.visual_encoder\.cls_token", "vision.embeddings.class_embedding"),
    (r"blip\.visual_encoder\.pos_embed", "vision.embeddings.position_embedding"),
    (r"blip\.visual_encoder\.patch_embed\.proj\.(\w+)", r"vision.embeddings.patch_embedding.\1"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.norm([12])\.(\w+)", r"vision.encoder.layers.\1.layer_norm\2.\3"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.attn\.qkv\.(\w+)", r"vision.encoder.layers.\1.self_attn.qkv.\2"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.(\w+)", r"vision.encoder.layers.\1.self_attn.projection.\2"),
    (r"blip\.visual_encoder\.blocks\.(\d+)\.mlp\.(fc[12])\.(\w+)", r"vision.encoder.layers.\1.mlp.\2.\3"),
    (r"blip\.visual_encoder\.norm\.(\w+)", r"vision.post_layernorm.\1"),
    (r"blip\.text_encoder\.(.+)", r"text.\1"),
    (r"mlp\.layers\.(.+)", r"head.\1"),
]
# BLIP's contrastive projections, which the score does not use, and a buffer that counts 0, 1, 2, ...
UNUSED = re.compile(r"blip\.(vision_proj\.\w+|text_proj\.\w+|text_encoder\.embeddings\.position_ids)")


class ImageReward(nn.Module):
    """The architecture with random weights; the defaults are the published sizes (447 M parameters).

    `tokenizer`: a transformers tokenizer from `bert_tokenizer`; without one only `score_tokens` works.
    `differentiable`: gradients reach the pixels, resized in floating point instead of PIL's 8 bit.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        differentiable: bool = False,
        image_size: int = 224,
        patch_size: int = 16,
        vision_width: int = 1024,
        vision_layers: int = 24,
        vision_heads: int = 16,
        vocab_size: int = 30524,
        text_width: int = 768,
        text_layers: int = 12,
        text_heads: int = 12,
        text_mlp_width: int = 3072,
        max_positions: int = 512,
    ):
        super().__init__()
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        if tokenizer is not None and len(tokenizer) != vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} entries with [DEC] and [ENC], needed are {vocab_size}"
            )
        self.tokenizer, self.differentiable = tokenizer, differentiable
        self.preprocessing = Preprocessing(image_size)
        self.cut_prompts = CutPrompts("ImageReward", MAX_TOKENS)
        vision = BlipVisionConfig(
            hidden_size=vision_width,
            intermediate_size=4 * vision_width,
            num_hidden_layers=vision_layers,
            num_attention_heads=vision_heads,
            image_size=image_size,
            patch_size=patch_size,
            layer_norm_eps=1e-6,
        )
        text = BlipTextConfig(
            vocab_size=vocab_size,
            hidden_size=text_width,
            encoder_hidden_size=vision_width,
            intermediate_size=text_mlp_width,
            num_hidden_layers=text_layers,
            num_attention_heads=text_heads,
            max_position_embeddings=max_positions,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            bos_token_id=None,
            is_decoder=True,  # only so that cross-attention is built: the prompt is read in both directions
        )
        self.vision = BlipVisionModel(vision)
        # The class knows no other attention; forcing one would add a boolean mask to the logits.
        self.text = BlipTextModel._from_config(text, add_pooling_layer=False, attn_implementation="eager")
        self.head = score_head(text_width)

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Scores [B], about N(0, 1), higher is better, of images [B, 3, H, W] in [-1, 1] for their prompts, in float32.

        Prompts beyond 35 tokens are cut behind the 34th, [SEP] kept, and counted in `cut_prompts` with a warning.
        """
        check_images_and_prompts(images, prompts)
        device = next(self.head.parameters()).device
        pixels = pixel_values(images, self.preprocessing, self.differentiable).to(device)
        input_ids, attention_mask = (ids.to(device) for ids in self.tokenize(prompts))
        with torch.autocast(device.type, enabled=False):
            return self.score_tokens(pixels, input_ids, attention_mask)

    def score_tokens(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores [B] of normalised pixels [B, 3, size, size] for token ids [B, L]; mask [B, L] is 0 at padding."""
        vision_tokens = self.vision(pixels).last_hidden_state
        hidden = self.text(
            input_ids, attention_mask=attention_mask, encoder_hidden_states=vision_tokens
        ).last_hidden_state
        return (self.head(hidden[:, 0]).squeeze(1) - SCORE_MEAN) / SCORE_STD

    def tokenize(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask, int64 [B, 35]; of fixed length, so that no score depends on its batch."""
        if self.tokenizer is None:
            raise ValueError("this ImageReward has no tokenizer; build it with tokenizer=bert_tokenizer(...)")
        self.cut_prompts.count([len(ids) > MAX_TOKENS for ids in self.tokenizer(prompts, truncation=False).input_ids])
        encoded = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        return encoded.input_ids, encoded.attention_mask


def score_head(width: int) -> nn.Sequential:
    """Embedding [B, width] -> [B, 1]: linear layers without activations, as in the LAION aesthetic predictor."""
    head = nn.Sequential(
        nn.Linear(width, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )
    for name, parameter in head.named_parameters():
        nn.init.normal_(parameter, std=1 / (width + 1)) if "weight" in name else nn.init.zeros_(parameter)
    return head


def bert_tokenizer(source: str | Path = "google-bert/bert-base-uncased") -> Any:
    """BERT's uncased tokenizer with BLIP's [DEC] and [ENC]; `source`: vocab.txt, its folder, or a hub id."""
    from transformers import BertTokenizer

    # Not splitlines: some entries are characters that count as line ends in Unicode.
    words = weights_file(source, "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    tokenizer = BertTokenizer({word: number for number, word in enumerate(words)}, do_lower_case=True)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"extra_special_tokens": ["[ENC]"]})
    return tokenizer


def load_image_reward(
    source: str | Path = "THUDM/ImageReward",
    tokenizer: str | Path = "google-bert/bert-base-uncased",
    differentiable: bool = False,
    **sizes: int,
) -> ImageReward:
    """ImageReward with published weights, frozen and in eval mode, float32 on the CPU.

    `source`: ImageReward.pt, a folder that holds it, or a hub id; `tokenizer` likewise (vocab.txt). `sizes`: those of
    `ImageReward`, for weights of another size. ValueError in one line if a file is missing or does not fit entirely.
    """
    path = weights_file(source, "ImageReward.pt")
    state = {
        _renamed(name, path): value.float() for name, value in read_weights(path).items() if not UNUSED.match(name)
    }
    words = bert_tokenizer(tokenizer)
    with torch.device("meta"):  # no time spent on random weights
        model = ImageReward(words, differentiable, **sizes)
    check_keys(state, model.state_dict(), path)
    model.load_state_dict(state, assign=True)
    # Not part of a state dict, so still without values.
    positions = model.text.embeddings.position_ids
    model.text.embeddings.position_ids = torch.arange(positions.shape[1]).expand(1, -1)
    return model.eval().requires_grad_(False)


def _renamed(name: str, path: Path) -> str:
    for pattern, replacement in RENAMED:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    raise ValueError(f"{path} holds {name}, which ImageReward does not have; is it another model's file?")
