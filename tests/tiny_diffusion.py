"""Random Stable Diffusion parts and whole pipelines of a few thousand weights, in folders as the real ones."""

import torch

from fewstep.backbones import (
    STABLE_DIFFUSION_SCHEDULER,
    DiffusersDenoiser,
    add_guidance_embedding,
    clip_tokenizer,
    diffusers_network,
)
from fewstep.contrastive.vocabulary import write_vocabulary
from fewstep.diffusion.schedules import DiscreteSchedule, RectifiedFlow

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

SDXL_UNET = {
    "cross_attention_dim": 40,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 44,
}
TRANSFORMER = {
    "sample_size": 8,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 48,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 32,
    "pos_embed_max_size": 8,
}


def write_autoencoder(folder, seed=0, **config) -> str:
    """An AutoencoderKL of 16 px and 4 x 8 x 8 latents."""
    torch.manual_seed(seed)
    diffusers_network("AutoencoderKL", AUTOENCODER | config).save_pretrained(folder)
    return str(folder)


def write_text_encoder(folder, seed=0) -> str:
    """A CLIPTextModel of width 16 for 12 tokens and its tokenizer, in one folder."""
    words = tokenizer(folder)
    clip_text(words, seed, layers=1).save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def tokenizer(folder, pad="<|endoftext|>"):
    """A CLIPTokenizer of 12 tokens whose vocabulary is written into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_vocabulary(CAPTIONS, 520, folder / "bpe.txt.gz")
    words = clip_tokenizer(folder / "bpe.txt.gz", 12)
    words.pad_token = pad
    return words


def clip_text(words, seed=0, width=16, layers=2, projection=None):
    """A CLIPTextModel, or one with a projection to that many numbers."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    last = words.eos_token_id
    sizes = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2}
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": last, "pad_token_id": last}
    config = CLIPTextConfig(
        vocab_size=len(words), max_position_embeddings=12, projection_dim=projection, **sizes, **ids
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def unet(seed=0, **config):
    torch.manual_seed(seed)
    return diffusers_network("UNet2DConditionModel", UNET | config)


def transformer(seed=0, **config):
    torch.manual_seed(seed)
    return diffusers_network("SD3Transformer2DModel", TRANSFORMER | config)


NETWORKS = ("unet", "sdxl_unet", "sd3")


def denoising_network(kind, seed=0, **config):
    if kind == "sd3":
        return transformer(seed, **config).eval()
    return unet(seed, **({} if kind == "unet" else SDXL_UNET), **config).eval()


def denoiser_inputs(kind, rows=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    width, channels = {"unet": (16, 4), "sdxl_unet": (40, 4), "sd3": (48, 16)}[kind]
    x, prompt = (torch.randn(rows, *shape, generator=generator) for shape in ((channels, 8, 8), (7, width)))
    condition = {"prompt": prompt}
    if kind != "unet":
        condition["pooled"] = torch.randn(rows, {"sdxl_unet": 20, "sd3": 32}[kind], generator=generator)
    if kind == "sdxl_unet":
        condition["time_ids"] = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).expand(rows, -1)
    return x.to(dtype), torch.tensor([0.02, 0.5, 1.0])[:rows], condition


def denoiser(model, kind):
    return DiffusersDenoiser(model, RectifiedFlow(3.0) if kind == "sd3" else DiscreteSchedule())


def perturbed(model, kind, dim=512):
    """With an embedding of w that says something."""
    add_guidance_embedding(model, dim)
    weight = (
        model.time_text_embed.guidance.projection.weight if kind == "sd3" else model.time_embedding.cond_proj.weight
    )
    torch.manual_seed(9)
    torch.nn.init.normal_(weight.data, std=0.3)
    return model


KINDS = ("sd", "sd_v", "sdxl", "sd3", "sd3_without_t5")


def write_pipeline(folder, kind, network=None, **options) -> str:
    """A diffusers pipeline of one of KINDS for 16 px, of SD1, SD2, SDXL, SD3 architecture; network: its own if None."""
    import diffusers

    first, second = tokenizer(folder / "words"), tokenizer(folder / "words", pad="!")
    torch.manual_seed(7)
    config = AUTOENCODER
    if kind.startswith("sd3"):
        config = config | {"latent_channels": 16, "shift_factor": 0.3, "use_quant_conv": False}
        config |= {"use_post_quant_conv": False}
    vae = diffusers_network("AutoencoderKL", config)
    if kind in ("sd", "sd_v"):
        prediction = "epsilon" if kind == "sd" else "v_prediction"
        scheduler = diffusers.DDIMScheduler(**STABLE_DIFFUSION_SCHEDULER, prediction_type=prediction)
        parts = {"unet": network or unet(), "text_encoder": clip_text(first), "tokenizer": first}
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        made = diffusers.StableDiffusionPipeline(vae=vae, scheduler=scheduler, **parts, **options)
    elif kind == "sdxl":
        scheduler = diffusers.DDIMScheduler(**STABLE_DIFFUSION_SCHEDULER)
        parts = {"text_encoder": clip_text(first), "text_encoder_2": clip_text(second, 1, 24, 3, projection=20)}
        parts |= {"tokenizer": first, "tokenizer_2": second, "unet": network or unet(**SDXL_UNET)}
        made = diffusers.StableDiffusionXLPipeline(
            vae=vae, scheduler=scheduler, add_watermarker=False, **parts, **options
        )
    else:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
        parts = {"text_encoder": clip_text(first, 0, 16, 2, 12), "text_encoder_2": clip_text(second, 1, 24, 3, 20)}
        parts |= {"tokenizer": first, "tokenizer_2": second, "transformer": network or transformer()}
        parts |= {"text_encoder_3": None, "tokenizer_3": None} if kind == "sd3_without_t5" else t5()
        made = diffusers.StableDiffusion3Pipeline(vae=vae, scheduler=scheduler, **parts, **options)
    made.save_pretrained(folder)
    return str(folder)


def t5():
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    torch.manual_seed(3)
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    words = T5Tokenizer(vocab=[*special, *((letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz")], extra_ids=0)
    sizes = {"d_model": 48, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": len(words)}
    return {"text_encoder_3": T5EncoderModel(T5Config(**sizes)), "tokenizer_3": words}


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
