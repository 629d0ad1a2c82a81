"""Mean scores of generated images for their prompts: CLIP score and ImageReward."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks.metrics.both_stages import in_both_stages
from callbacks.metrics.image_outputs import counted, generated_images
from callbacks.metrics.measurements import Measured, publish
from callbacks.metrics.rows import SampleValues, intervals
from fewstep.files.weights import weights_sha256
from fewstep.metrics.features import full_float32


class Scores:
    """What both callbacks do: one score per image from `scorer(images, prompts) -> [B]`, gathered and averaged."""

    def __init__(self, name: str, scorer: nn.Module, protocol: dict[str, Any]) -> None:
        self.name, self.scorer, self.protocol = name, scorer, protocol
        self.protocol["weights_sha256"] = weights_sha256(scorer)
        self.rows: dict[str, Tensor] = {}

    def start(self, trainer: Trainer) -> None:
        self.scorer.to(trainer.strategy.root_device).eval()
        self._values = SampleValues()
        self._cut = self._num_cut()

    def add(self, outputs: dict[str, Any], batch: dict[str, Any]) -> None:
        rows = counted(batch)
        pictures = generated_images(outputs, rows)
        if "caption" not in batch:
            raise ValueError(f"{self.name} needs `caption` (list of str) in the batch")
        if not len(pictures):
            return
        with full_float32(pictures.device):
            scores = self.scorer(pictures.float().div(127.5).sub(1), rows.captions)
        self._values.add(rows.keys, score=scores)

    def finish(self, stage: str, trainer: Trainer, module: LightningModule) -> Measured:
        keys, columns = self._values.gather(trainer)
        if trainer.sanity_checking:
            return {}
        if not keys:
            raise ValueError(
                f"{self.name} needs at least 1 image, got 0; is every sample of the {stage} split skipped?"
            )
        self.rows = {f"{stage}/{self.name}": columns["score"]}
        values = {key: value.mean().item() for key, value in self.rows.items()}
        cut = torch.tensor(float(self._num_cut() - self._cut), device=trainer.strategy.root_device)
        if trainer.world_size > 1:
            torch.distributed.all_reduce(cut)
        protocol = {"num_generated": len(keys), "prompts_cut": int(cut), **self.protocol}
        return publish(trainer, module, values, protocol)

    def _num_cut(self) -> int:
        return getattr(getattr(self.scorer, "cut_prompts", None), "cut", 0)


@in_both_stages
class CLIPScoreCallback(Callback):
    """Logs `val/clip_score`, after a test `test/clip_score`: 100 times the cosine of image and caption, not clamped.

    Args:
        model, pretrained: as in `fewstep.rewards.clip_scores.load_clip`: name and tag or local weights file.
        scorer: any `(images, prompts) -> [B]` instead, such as a `CLIPSimilarity` of scale 100.
        name: of the value, where several are logged.

    Reads `image` of the outputs, `caption`, `key` and `weight` of the batch. `rows` holds the scores by key order.
    """

    def __init__(
        self,
        model: str = "ViT-L-14-quickgelu",
        pretrained: str | None = "openai",
        scorer: nn.Module | None = None,
        name: str = "clip_score",
    ) -> None:
        self.model, self.pretrained, self.scorer, self.name = model, pretrained, scorer, name
        self.measured: Measured = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not hasattr(self, "_scores"):
            from fewstep.rewards.clip_scores import load_clip

            protocol = {"metric": "CLIP score", "scale": 100.0, "resize": "as the model's own, by PIL"}
            if self.scorer is None:
                self.scorer = load_clip(self.model, self.pretrained, scale=100.0)
                protocol |= {"model": self.model, "pretrained": str(self.pretrained)}
            else:
                protocol |= {"model": type(self.scorer).__name__, "scale": getattr(self.scorer, "scale", None)}
            self._scores = Scores(self.name, self.scorer, protocol)

    def start(self, trainer: Trainer) -> None:
        self._scores.start(trainer)

    def add(self, outputs: dict[str, Any], batch: dict[str, Any]) -> None:
        self._scores.add(outputs, batch)

    def finish(self, stage: str, trainer: Trainer, module: LightningModule) -> None:
        self.measured = self._scores.finish(stage, trainer, module)

    @property
    def rows(self) -> dict[str, Tensor]:
        """Log key -> scores [N] of the last evaluation, ordered by key."""
        return self._scores.rows

    def intervals(self, num_draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals over images by log key."""
        return intervals(self.rows, num_draws, seed)


@in_both_stages
class ImageRewardCallback(Callback):
    """Logs `val/image_reward`, after a test `test/image_reward`: the mean ImageReward, about N(0, 1) on people's data.

    Args:
        source, tokenizer: as in `fewstep.rewards.image_reward.load_image_reward`: hub id, file or folder.
        scorer: an `ImageReward` instead. name: of the value, where several are logged.

    Reads and keeps what CLIPScoreCallback does.
    """

    def __init__(
        self,
        source: str = "THUDM/ImageReward",
        tokenizer: str = "google-bert/bert-base-uncased",
        scorer: nn.Module | None = None,
        name: str = "image_reward",
    ) -> None:
        self.source, self.tokenizer, self.scorer, self.name = source, tokenizer, scorer, name
        self.measured: Measured = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not hasattr(self, "_scores"):
            from fewstep.rewards.image_reward import load_image_reward

            given = self.scorer is not None
            self.scorer = self.scorer if given else load_image_reward(self.source, self.tokenizer)
            protocol = {"metric": "ImageReward", "resize": "PIL bicubic to the short side, centre cut"}
            protocol["model"] = type(self.scorer).__name__ if given else self.source
            self._scores = Scores(self.name, self.scorer, protocol)

    start, add, finish = CLIPScoreCallback.start, CLIPScoreCallback.add, CLIPScoreCallback.finish
    rows, intervals = CLIPScoreCallback.rows, CLIPScoreCallback.intervals
