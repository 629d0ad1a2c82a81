"""A CLIP to train: open_clip's network, its tokenizer and its preprocessing in one piece.

What `export` writes is a plain open_clip folder: open_clip.create_model("local-dir:FOLDER") and open_clip.get_tokenizer
of the same name need nothing of this project.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.one_line import one_line
from fewstep.picture_size import height_and_width
from fewstep.pixels import CLIP_MEAN, CLIP_STD, Preprocessing, pixel_values


class CLIPNetwork(nn.Module):
    """Image and text tower of `open_clip.CLIP`, random at first.

    Args:
        embed_dim: D, of the space in which images and texts meet.
        vision_cfg: as in open_clip's model files: {image_size, layers, width, patch_size, head_width} for a ViT, a
            list of four `layers` for a ResNet, or {image_size, timm_model_name} for any network of timm. image_size:
            one number, or [height, width] for a ViT and those of timm that take it; pictures are scaled until they
            cover that, and what stands over is cut off.
        text_cfg: likewise {context_length, width, heads, layers}; `vocab_size` follows from the vocabulary.
        vocabulary: .txt.gz of byte-pair merges (see vocabulary.py); None is open_clip's own of 49,408 tokens.

    ValueError in one line for sizes that open_clip refuses and for files that are not there.
    """

    def __init__(
        self,
        embed_dim: int,
        vision_cfg: dict[str, Any],
        text_cfg: dict[str, Any],
        vocabulary: str | None = None,
    ):
        import open_clip

        super().__init__()
        if vocabulary is not None and not Path(vocabulary).is_file():
            raise ValueError(
                f"no vocabulary {vocabulary}; write it with python -m datamodules.prepare vocabulary, or set it to null"
            )
        self.vocabulary = vocabulary
        length = text_cfg.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
        merges = {"bpe_path": vocabulary} if vocabulary else {}
        self.tokenizer = open_clip.SimpleTokenizer(context_length=length, **merges)
        self.config = {
            "embed_dim": embed_dim,
            "vision_cfg": dict(vision_cfg),
            "text_cfg": {**text_cfg, "vocab_size": self.tokenizer.vocab_size},
        }
        try:
            self.clip = open_clip.CLIP(**self.config)
        except Exception as error:  # open_clip and timm assert, divide by zero, look up names, ...
            reason = one_line(error, 160)
            raise ValueError(
                f"open_clip cannot build this network: {reason}; see its model_configs for examples"
            ) from None
        self.preprocessing = Preprocessing(height_and_width(self.clip.visual.image_size))

    @property
    def scale(self) -> Tensor:
        """Inverse temperature, scalar."""
        return self.clip.logit_scale.exp()

    @torch.no_grad()
    def clamp_scale(self, largest: float) -> None:
        """Keep the inverse temperature within 1 and `largest`, as CLIP's training does after every step."""
        self.clip.logit_scale.clamp_(0.0, math.log(largest))

    def encode_image(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1], of any size -> unit vectors [B, D]."""
        pixels = pixel_values(images, self.preprocessing, differentiable=True)
        return F.normalize(self.clip.encode_image(pixels).float(), dim=1)

    def encode_text(self, captions: list[str]) -> Tensor:
        """Captions -> unit vectors [B, D]. Those longer than the context are cut, their end token is kept."""
        token_ids = self.tokenizer(captions).to(self.clip.logit_scale.device)
        return F.normalize(self.clip.encode_text(token_ids).float(), dim=1)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Matrices and kernels under "decay"; biases, norms, embeddings of positions and temperature under "free"."""
        groups: dict[str, list[nn.Parameter]] = {"decay": [], "free": []}
        for name, parameter in self.clip.named_parameters():
            shape = [side for side in parameter.shape if side > 1]
            free = len(shape) < 2 or "positional_embedding" in name
            groups["free" if free else "decay"].append(parameter)
        return groups

    def export(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write a folder for open_clip: open_clip_config.json, open_clip_model.safetensors and a learnt vocabulary.

        open_clip computes in float32 whatever the `dtype` of the file.
        """
        from safetensors.torch import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {n: (v.to(dtype) if v.is_floating_point() else v) for n, v in self.clip.state_dict().items()}
        content = save({n: v.contiguous().cpu() for n, v in weights.items()})
        (folder / "open_clip_model.safetensors").write_bytes(content)  # save_file would hide it from other users
        config = json.loads(json.dumps(self.config))
        if self.vocabulary:
            from fewstep.backbones import clip_tokenizer

            # open_clip looks for a tokenizer in the folder when it is given a name, whichever.
            config["text_cfg"]["hf_tokenizer_name"] = "this folder"
            (folder / "bpe.txt.gz").write_bytes(Path(self.vocabulary).read_bytes())
            clip_tokenizer(self.vocabulary, self.tokenizer.context_length).save_pretrained(folder)
        stated = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "shortest"}
        text = json.dumps({"model_cfg": config, "preprocess_cfg": stated}, indent=2)
        (folder / "open_clip_config.json").write_text(text + "\n")
