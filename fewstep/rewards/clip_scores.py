"""Cosine similarity of a picture and a prompt in a CLIP model: CLIP score, HPSv2 and PickScore differ in the weights.

Radford et al. 2021 (CLIP); Hessel et al. 2021 (CLIPScore); Wu et al. 2023 (HPSv2); Kirstain et al. 2023 (PickScore).
"""

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.files.hub import weights_file
from fewstep.one_line import one_line
from fewstep.picture_size import height_and_width
from fewstep.pixels import CutPrompts, Preprocessing, check_images_and_prompts, pixel_values


class CLIPSimilarity(nn.Module):
    """`scale` times the cosine between the embeddings of image and prompt.

    `model`: has `encode_image(pixels)` and `encode_text(token_ids)`, as open_clip's classes do. `tokenizer(prompts,
    context_length=L)` returns int64 [B, L], L = `tokenizer.context_length` unless given; it cuts long prompts but keeps
    their end token, where the embedding is read. `scale`: 1 for the cosine; others report it times 100 or 2.5.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        preprocessing: Preprocessing | None = None,
        scale: float = 1.0,
        differentiable: bool = False,
        name: str = "CLIP",
    ):
        super().__init__()
        self.model: Any = model
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing or Preprocessing()
        self.scale, self.differentiable = scale, differentiable
        self.cut_prompts = CutPrompts(name, tokenizer.context_length)

    def forward(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Scores [B] in [-scale, scale] of images [B, 3, H, W] in [-1, 1] for their prompts, in float32."""
        check_images_and_prompts(images, prompts)
        return self.scale * (self.embed_images(images) * self.embed_prompts(prompts)).sum(1)

    def embed_images(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] -> unit vectors [B, D] in float32."""
        device = next(self.model.parameters()).device
        pixels = pixel_values(images, self.preprocessing, self.differentiable).to(device)
        with torch.autocast(device.type, enabled=False):
            return F.normalize(self.model.encode_image(pixels), dim=1)

    def embed_prompts(self, prompts: list[str]) -> Tensor:
        """Prompts -> unit vectors [B, D] in float32. Prompts that are too long are cut and counted in `cut_prompts`."""
        device = next(self.model.parameters()).device
        length = self.tokenizer.context_length
        token_ids = self.tokenizer(prompts, context_length=length)
        # With room for one token more, a prompt that was cut has a word where the end token stood.
        roomier = self.tokenizer(prompts, context_length=length + 1)
        self.cut_prompts.count((roomier[:, :-1] != token_ids).any(1).tolist())
        with torch.autocast(device.type, enabled=False):
            return F.normalize(self.model.encode_text(token_ids.to(device)), dim=1)


def load_clip(
    model: str = "ViT-L-14-quickgelu",
    pretrained: str | None = "openai",
    scale: float = 1.0,
    differentiable: bool = False,
    resize_mode: str | None = None,
) -> CLIPSimilarity:
    """An open_clip model, frozen, in eval mode, float32 on the CPU.

    `model`: an open_clip name, with `pretrained` a tag or a local file; or `hf-hub:owner/name` or `local-dir:FOLDER`
    with `pretrained` null. `resize_mode` replaces that of the weights (see `Preprocessing`). ValueError in one line.
    """
    import open_clip

    from fewstep.backbones.foreign_code import no_foreign_code

    _check_choice(model, pretrained)
    try:
        with no_foreign_code():
            network = open_clip.create_model(model, pretrained, require_pretrained=True, weights_only=True)
            tokenizer = open_clip.get_tokenizer(model)
    except Exception as error:  # RuntimeError, OSError, and whatever the hub and the weight readers raise
        reason = one_line(error, 160)
        weights = f" with weights {pretrained!r}" if pretrained else ""
        raise ValueError(
            f"cannot load the CLIP {model}{weights}: {reason}; without a network, give the path of the weights file as "
            "pretrained, or local-dir:FOLDER as the model"
        ) from None
    return CLIPSimilarity(
        network.eval().requires_grad_(False),
        tokenizer,
        _preprocessing_of(network, resize_mode),
        scale,
        differentiable,
        model,
    )


def load_hpsv2(
    source: str | Path = "xswu/HPSv2", version: str = "v2.1", differentiable: bool = False, model: str = "ViT-H-14"
) -> CLIPSimilarity:
    """Human Preference Score v2: a fine-tuned CLIP; scores are cosines, higher is better.

    `source`: HPS_v2.1_compressed.pt (HPS_v2_compressed.pt for `version` "v2.0"), its folder, or a hub id. Pictures that
    are not square are padded, not cut, as the published `hpsv2.score` does.
    """
    files = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}
    if version not in files:
        raise ValueError(f"HPSv2 has no version {version!r}; there are {', '.join(files)}")
    path = weights_file(source, files[version])
    return load_clip(model, str(path), differentiable=differentiable, resize_mode="longest")


def load_pickscore(
    source: str | Path = "yuvalkirstain/PickScore_v1",
    tokenizer: str | Path = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    differentiable: bool = False,
) -> CLIPSimilarity:
    """PickScore: a fine-tuned CLIP; scores are the cosine times its temperature, higher is better.

    Both arguments: a hub id or a local folder in transformers' format.
    """
    from fewstep.backbones import load_transformers_clip

    network, words = load_transformers_clip(source, tokenizer)
    size = network.clip.config.vision_config.image_size
    scale = network.clip.logit_scale.exp().item()
    return CLIPSimilarity(network, words, Preprocessing(size), scale, differentiable, name="PickScore")


def _check_choice(model: str, pretrained: str | None) -> None:
    """Catch before any download what open_clip answers with a page of names, a warning or random weights."""
    import open_clip

    if model.startswith(("hf-hub:", "local-dir:")):
        if pretrained is not None:
            raise ValueError(f"{model} brings its own weights; set pretrained to null instead of {pretrained!r}")
        return
    config = open_clip.get_model_config(model)
    if config is None:
        close = ", ".join(difflib.get_close_matches(model, open_clip.list_models(), 3)) or "open_clip.list_models()"
        raise ValueError(f"open_clip has no model {model!r}; see {close}")
    if pretrained is None:
        raise ValueError(f"pretrained is null, so {model} would score at random; give a tag or a weights file")
    tag = open_clip.get_pretrained_cfg(model, pretrained)
    if not tag and not Path(pretrained).is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise ValueError(f"{pretrained!r} is neither a file nor a tag of {model}; its tags: {tags}")
    if tag and tag.get("quick_gelu", False) != config.get("quick_gelu", False):
        other = model.removesuffix("-quickgelu") if config.get("quick_gelu") else f"{model}-quickgelu"
        raise ValueError(f"{model} has another activation than the weights {pretrained!r}; name {other} instead")


def _preprocessing_of(network: Any, resize_mode: str | None) -> Preprocessing:
    stated = network.visual.preprocess_cfg
    size, mode = height_and_width(stated["size"], "the CLIP's size"), resize_mode or stated["resize_mode"]
    return Preprocessing(size, mode, stated["interpolation"], tuple(stated["mean"]), tuple(stated["std"]))
