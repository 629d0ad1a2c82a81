"""Random Stable Diffusion parts of a few thousand weights, in folders as the real ones."""

import torch

from fewstep.backbones import clip_tokenizer, diffusers_network
from fewstep.bpe_vocabulary import write_vocabulary

COLOURS = {"red": (1.0, -1.0, -1.0), "green": (-1.0, 1.0, -1.0), "blue": (-1.0, -1.0, 1.0), "white": (1.0, 1.0, 1.0)}
CAPTIONS = [f"a {colour} square" for colour in COLOURS]
AUTOENCODER = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
    "sample_size": 16,
    "mid_block_add_attention": False,
    "scaling_factor": 0.7,
}
UNET = {
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "cross_attention_dim": 16,
}


def write_autoencoder(folder, seed=0, **config) -> str:
    """An AutoencoderKL of 16 px and 4 x 8 x 8 latents."""
    torch.manual_seed(seed)
    diffusers_network("AutoencoderKL", AUTOENCODER | config).save_pretrained(folder)
    return str(folder)


def write_text_encoder(folder, seed=0) -> str:
    """A CLIPTextModel of width 16 for 12 tokens and its tokenizer, in one folder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    folder.mkdir(parents=True, exist_ok=True)
    write_vocabulary(CAPTIONS, 520, folder / "bpe.txt.gz")
    tokenizer = clip_tokenizer(folder / "bpe.txt.gz", 12)
    torch.manual_seed(seed)
    size, last = len(tokenizer), tokenizer.eos_token_id
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": last, "pad_token_id": last}
    CLIPTextModel(CLIPTextConfig(vocab_size=size, max_position_embeddings=12, **sizes, **ids)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def unet(seed=0, **config):
    torch.manual_seed(seed)
    return diffusers_network("UNet2DConditionModel", UNET | config)


def batch(rows=range(4), weight=None):
    """Squares of a colour each, 16 px, with a little noise that belongs to the row."""
    colours = list(COLOURS.values())
    images = []
    for row in rows:
        noise = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(row)) * 0.05
        images.append((torch.tensor(colours[row % 4])[:, None, None] * 0.8 + noise).clamp(-1, 1))
    return {
        "image": torch.stack(images),
        "caption": [CAPTIONS[row % 4] for row in rows],
        "key": [f"k{row}" for row in rows],
        "weight": torch.ones(len(images)) if weight is None else torch.tensor(weight),
    }
