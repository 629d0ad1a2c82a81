"""A reward that learns what is better from pairs: the kind of ImageReward at the size of a small world.

Xu et al. 2023, section 3.1: a text transformer reads the prompt with cross-attention to the tokens of the picture.
"""

import gzip
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.choices import require_range
from fewstep.files.hub import weights_file
from fewstep.one_line import one_line
from fewstep.picture_size import Size, as_stored, height_and_width
from fewstep.pixels import CutPrompts, check_images_and_prompts
from fewstep.rewards.saved_networks import load_network, save_network
from fewstep.rewards.trunks import num_tokens, resized, timm_trunk, trunk_tokens

VOCABULARY, MOST_BYTES = "bpe.txt.gz", 1 << 24  # of its merges as text
MOST = {"context_length": 1024, "width": 4096, "heads": 256, "text_layers": 64, "cross_layers": 64}


class PreferenceReward(nn.Module):
    """(images [B, 3, H, W] in [-1, 1] of any size, prompts) -> rewards [B]; only their differences mean something.

    Args:
        vocabulary: .txt.gz of byte-pair merges, see fewstep.contrastive.vocabulary.
        trunk, trunk_options, image_size: of the image tower, as in AttributeReader.
        context_length: tokens of a prompt; longer ones are cut, their end token is kept, with a warning.
        width, heads: of the transformer.
        text_layers: that read the prompt alone; cross_layers: that read it beside the picture.

    Every token of the prompt gives its own score, so that one wrong word weighs the same in each prompt of a length;
    the reward is their mean. ValueError in one line for what cannot be built.
    """

    def __init__(
        self,
        vocabulary: str | Path,
        trunk: str = "convnext_atto",
        trunk_options: dict[str, Any] | None = None,
        image_size: Size = 64,
        context_length: int = 60,
        width: int = 96,
        heads: int = 4,
        text_layers: int = 1,
        cross_layers: int = 2,
    ) -> None:
        super().__init__()
        sizes = {"context_length": context_length, "width": width, "heads": heads}
        sizes |= {"text_layers": text_layers, "cross_layers": cross_layers}
        for name, size in sizes.items():
            if type(size) is not int:
                raise ValueError(f"{name}={one_line(repr(size), 40)}: give a whole number")
            require_range(name, size, 0 if name == "text_layers" else 1, MOST[name])
        if width % heads:
            raise ValueError(f"width={width} is no multiple of heads={heads}")
        self.vocabulary, self.image_size = Path(vocabulary), height_and_width(image_size)
        options = trunk_options or {}
        self.config = {"trunk": trunk, "trunk_options": options, "image_size": as_stored(image_size), **sizes}
        self.tokenizer = _tokenizer(self.vocabulary, context_length)
        self.cut_prompts = CutPrompts("the preference reward", context_length)
        self.trunk = timm_trunk(trunk, options)
        places, channels = num_tokens(self.trunk, trunk, self.image_size)
        self.project = nn.Linear(channels, width)
        self.places = nn.Parameter(0.02 * torch.randn(places, width))
        self.image_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.words = nn.Embedding(self.tokenizer.vocab_size, width)
        self.positions = nn.Parameter(0.02 * torch.randn(context_length, width))
        shared: dict[str, Any] = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        alone = [nn.TransformerEncoderLayer(width, heads, 2 * width, **shared) for _ in range(text_layers)]
        beside = [nn.TransformerDecoderLayer(width, heads, 2 * width, **shared) for _ in range(cross_layers)]
        self.text_layers, self.cross_layers = nn.ModuleList(alone), nn.ModuleList(beside)
        self.head = nn.Linear(width, 1)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=1 / (width + 1))  # as ImageReward's
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """ValueError in one line for other images or prompts."""
        check_images_and_prompts(images, prompts)
        device = self.places.device
        return self.score(self.encode_images(images.to(device)), *self.encode_prompts(prompts))

    def encode_images(self, images: Tensor) -> Tensor:
        """Tokens [B, N, width] of images [B, 3, H, W] in [-1, 1]."""
        tokens = trunk_tokens(self.trunk, resized(images, self.image_size))
        return self.image_norm(self.project(tokens) + self.places)

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Hidden states [B, L, width] and, true at padding, a mask [B, L]; always of the same length.

        So that no score depends on what else is in the batch.
        """
        length = self.tokenizer.context_length
        self.cut_prompts.count([len(self.tokenizer.encode(prompt)) + 2 > length for prompt in prompts])
        ids = self.tokenizer(prompts).to(self.places.device)
        ends = (ids == self.tokenizer.eot_token_id).int().argmax(1)
        padding = torch.arange(length, device=ids.device) > ends[:, None]
        hidden = self.words(ids) + self.positions
        for layer in self.text_layers:
            hidden = layer(hidden, src_key_padding_mask=padding)
        return hidden, padding

    def score(self, image_tokens: Tensor, hidden: Tensor, padding: Tensor) -> Tensor:
        """Rewards [B] of what `encode_images` and `encode_prompts` made."""
        for layer in self.cross_layers:
            hidden = layer(hidden, image_tokens, tgt_key_padding_mask=padding)
        scores = self.head(self.norm(hidden)).squeeze(-1).float()  # [B, L]
        return scores.masked_fill(padding, 0.0).sum(1) / (~padding).sum(1)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, bpe.txt.gz and model.safetensors, in the type of the weights."""
        save_network(self, self.config, folder)
        Path(folder, VOCABULARY).write_bytes(self.vocabulary.read_bytes())


def _tokenizer(vocabulary: Path, context_length: int) -> Any:
    """open_clip's, of a vocabulary that may come from anywhere."""
    import open_clip

    if not vocabulary.is_file():
        raise ValueError(f"no vocabulary {vocabulary}; write it with python -m datamodules.prepare vocabulary")
    try:
        with gzip.open(vocabulary) as content:
            if len(content.read(MOST_BYTES + 1)) > MOST_BYTES:
                raise ValueError(f"it unpacks to more than {MOST_BYTES} bytes")
        return open_clip.SimpleTokenizer(context_length=context_length, bpe_path=str(vocabulary))
    except Exception as error:  # gzip, UTF-8 and whatever the tokenizer looks up
        raise ValueError(f"cannot read the vocabulary {vocabulary}: {one_line(error, 120)}") from None


def load_preference_reward(source: str | Path) -> PreferenceReward:
    """The reward of a folder or hub id that `save_pretrained` wrote; frozen, in eval mode, float32 on the CPU.

    ValueError in one line.
    """
    build = partial(PreferenceReward, weights_file(source, VOCABULARY))
    return load_network(source, "preference reward", build, sorted({"trunk", "trunk_options", "image_size", *MOST}))
