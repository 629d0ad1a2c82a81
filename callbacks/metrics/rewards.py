"""Mean scores of generated images for their prompts, by any reward: CLIP score, ImageReward and what else is chosen."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks.metrics.both_stages import in_both_stages
from callbacks.metrics.image_outputs import chosen, counted, generated_images
from callbacks.metrics.measurements import Measured, publish, sum_over_processes
from callbacks.metrics.rows import SampleValues, intervals
from fewstep.files.weights import weights_sha256
from fewstep.metrics.features import full_float32


@in_both_stages
class RewardCallback(Callback):
    """Logs `val/NAME`, after a test `test/NAME`: the mean of `reward(images, prompts)` over generated images.

    Args:
        reward: a module (images [B, 3, H, W] in [-1, 1], prompts) -> scores [B], such as what the functions `load_*`
            of fewstep.rewards return.
        name: of the value; the catalogue of metrics says which way it is better.
        field: of the batch, in place of the prompts: "attributes" for fewstep.rewards.attributes.AttributeReward.

    Reads `image` of the outputs, `field`, `key` and `weight` of the batch. `rows` holds the scores by key order.
    """

    def __init__(self, reward: nn.Module, name: str, field: str = "caption") -> None:
        self.reward: nn.Module | None = reward
        self.name, self.field = name, field
        self.rows: dict[str, Tensor] = {}  # log key -> scores [N], ordered by key
        self.measured: Measured = {}
        self.protocol: dict[str, Any] = {"metric": name}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.protocol.setdefault("model", type(self.reward).__name__)
        self.protocol.setdefault("weights_sha256", weights_sha256(self.reward))

    def start(self, trainer: Trainer) -> None:
        self.reward.to(trainer.strategy.root_device).eval()
        self._values = SampleValues()
        self._cut = self._num_cut()

    def add(self, outputs: dict[str, Any], batch: dict[str, Any]) -> None:
        rows = counted(batch)
        pictures = generated_images(outputs, rows)
        wanted = chosen(batch, self.field, rows, self.name)
        if not len(pictures):
            return
        with full_float32(pictures.device):
            scores = self.reward(pictures.float().div(127.5).sub(1), wanted)
        self._values.add(rows.keys, score=scores)

    def finish(self, stage: str, trainer: Trainer, module: LightningModule) -> None:
        keys, columns = self._values.gather()
        if not keys:
            raise ValueError(
                f"{self.name} needs at least 1 image, got 0; is every sample of the {stage} split skipped?"
            )
        self.rows = {f"{stage}/{self.name}": columns["score"]}
        values = {key: value.mean().item() for key, value in self.rows.items()}
        (cut,) = sum_over_processes(trainer, torch.tensor(float(self._num_cut() - self._cut)))
        protocol = {"num_generated": len(keys), "prompts_cut": int(cut), **self.protocol}
        self.measured = publish(trainer, module, values, protocol)

    def intervals(self, num_draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals over images by log key."""
        return intervals(self.rows, num_draws, seed)

    def _num_cut(self) -> int:
        return getattr(getattr(self.reward, "cut_prompts", None), "cut", 0)


class CLIPScoreCallback(RewardCallback):
    """RewardCallback of 100 times the cosine of image and caption, not clamped: `val/clip_score`.

    Args:
        model, pretrained: as in `fewstep.rewards.clip_scores.load_clip`: name and tag or local weights file.
        scorer: any `(images, prompts) -> [B]` instead, such as a `CLIPSimilarity` of scale 100.
        name: of the value, where several are logged.
    """

    def __init__(
        self,
        model: str = "ViT-L-14-quickgelu",
        pretrained: str | None = "openai",
        scorer: nn.Module | None = None,
        name: str = "clip_score",
    ) -> None:
        super().__init__(scorer, name)
        self.model, self.pretrained = model, pretrained
        self.protocol = {"metric": "CLIP score", "scale": 100.0, "resize": "as the model's own, by PIL"}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.reward is None:
            from fewstep.rewards.clip_scores import load_clip

            self.reward = load_clip(self.model, self.pretrained, scale=100.0)
            self.protocol |= {"model": self.model, "pretrained": str(self.pretrained)}
        self.protocol["scale"] = getattr(self.reward, "scale", None)
        super().setup(trainer, pl_module, stage)


class ImageRewardCallback(RewardCallback):
    """RewardCallback of ImageReward, about N(0, 1) on people's data: `val/image_reward`.

    Args:
        source, tokenizer: as in `fewstep.rewards.image_reward.load_image_reward`: hub id, file or folder.
        scorer: an `ImageReward` instead. name: of the value, where several are logged.
    """

    def __init__(
        self,
        source: str = "THUDM/ImageReward",
        tokenizer: str = "google-bert/bert-base-uncased",
        scorer: nn.Module | None = None,
        name: str = "image_reward",
    ) -> None:
        super().__init__(scorer, name)
        self.source, self.tokenizer = source, tokenizer
        self.protocol = {"metric": "ImageReward", "resize": "PIL bicubic to the short side, centre cut"}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.reward is None:
            from fewstep.rewards.image_reward import load_image_reward

            self.reward = load_image_reward(self.source, self.tokenizer)
            self.protocol["model"] = self.source
        super().setup(trainer, pl_module, stage)
