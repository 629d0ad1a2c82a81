"""Training of a reward on pairs (ImageReward; Xu et al. 2023, arXiv 2304.05977), which are constructed, not rated."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from fewstep.augmentation import Augmentation
from fewstep.backbones import copied_to
from fewstep.choices import DTYPES, require_choice
from fewstep.optimizers import AdamW
from fewstep.rewards.preference import PreferenceReward
from fewstep.rewards.preference_pairs import (
    WORSE,
    End,
    bradley_terry_losses,
    constructed,
    mean_of_kinds,
    mixed,
    pair_rewards,
)
from lightning_modules.evaluation_steps import log_mean, pictures_of, sample_rng


class PreferenceRewardModule(LightningModule):
    """Trains a reward by -log sigmoid(reward of the better - reward of the worse) (Bradley and Terry 1952).

    Args:
        model: fewstep.rewards.preference.PreferenceReward.
        augmentation: of training pictures, those of a pair alike, see fewstep.augmentation.Augmentation.
        degradation: what makes a picture worse, and every augmented one more so.
        optimizer: see fewstep.optimizers.AdamW.
        export_dtype: "float32" or "float16", of the exported weights.

    A sample is a picture with a caption that settles all that can be seen (`data.captions` first) and an edit of it:
    fields image, caption and attributes, and their edited_ namesakes as `python -m datamodules.prepare avatars` writes
    them. A picture with its caption is better than five others (fewstep.rewards.preference_pairs.WORSE): one attribute
    of the caption or of the picture changed, persons exchanged, degraded, the picture of another sample of the batch.
    In training either end of an edit may be the one that is better. A pair that says nothing, such as persons exchanged
    who are alike, has no weight; the others of a sample share its own.
    """

    def __init__(
        self,
        model: PreferenceReward,
        augmentation: Augmentation = Augmentation(),
        degradation: Augmentation = Augmentation(blur=3.0, noise=0.6, smear=3.0),
        optimizer: AdamW = AdamW(lr=1e-3, weight_decay=0.05, warmup_steps=50),
        export_dtype: str = "float16",
    ) -> None:
        super().__init__()
        require_choice("export_dtype", export_dtype, ("float32", "float16"))
        if degradation == Augmentation():
            raise ValueError(
                "degradation changes nothing, and what is no worse teaches nothing; give blur, noise or smear"
            )
        self.save_hyperparameters(ignore=["model", "augmentation", "degradation", "optimizer"])
        self.model, self.augmentation, self.degradation, self.optimizer = model, augmentation, degradation, optimizer

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        ends = _ends(batch, range(len(batch["key"])))
        exchanged = torch.rand(len(batch["key"]), device=self.device) < 0.5
        pairs = constructed(*mixed(*ends, exchanged), self.augmentation, self.degradation)
        loss = mean_of_kinds(self._losses(*pair_rewards(self.model, pairs)), pairs.says).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """loss, pair_accuracy [B], and pair_accuracy_KIND [B], NaN where that kind says nothing.

        What is random belongs to the key. The picture of another sample is one of the same batch, so that kind depends
        on `eval_batch_size`. The mean of a kind that says nothing of the whole set is NaN.
        """
        return self._evaluate("val", batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        weight = batch["weight"]
        rows = weight.nonzero()[:, 0].tolist()  # those without weight may have neither a picture nor captions
        outputs = {name: torch.zeros_like(weight) for name in ("loss", "pair_accuracy")}
        kinds = {kind: torch.full_like(weight, torch.nan) for kind in WORSE}
        if rows:
            rng = sample_rng([batch["key"][row] for row in rows], weight.device)
            pairs = constructed(*_ends(batch, rows), Augmentation(), self.degradation, rng)
            better, worse = pair_rewards(self.model, pairs)
            right = {kind: (better > rewards).float() for kind, rewards in worse.items()}
            outputs["loss"][rows] = mean_of_kinds(self._losses(better, worse), pairs.says)
            outputs["pair_accuracy"][rows] = mean_of_kinds(right, pairs.says)
            for kind, values in right.items():
                kinds[kind][rows] = torch.where(pairs.says[kind], values, torch.nan)
        for name, values in outputs.items():
            log_mean(self, f"{stage}/{name}", values, weight, prog_bar=True)
        for kind, values in kinds.items():
            log_mean(self, f"{stage}/pair_accuracy_{kind}", values.nan_to_num(), weight * ~values.isnan())
        return outputs | {f"pair_accuracy_{kind}": values for kind, values in kinds.items()}

    def _losses(self, better: Tensor, worse: dict[str, Tensor]) -> dict[str, Tensor]:
        return {kind: bradley_terry_losses(better, rewards) for kind, rewards in worse.items()}

    def export(self, folder: str) -> None:
        """Write a folder that fewstep.rewards.preference.load_preference_reward reads."""
        copied_to(self.model, DTYPES[self.hparams.export_dtype]).save_pretrained(folder)

    def configure_optimizers(self) -> dict[str, Any]:
        return self.optimizer.configure(self.parameters(), lambda: self.trainer.estimated_stepping_batches)


def _ends(batch: dict[str, Any], rows: Sequence[int]) -> tuple[End, End]:
    """Both ends of the edits of these rows; ValueError in one line where a field is missing."""
    ends = []
    for before in ("", "edited_"):
        told = {}
        for field in (f"{before}caption", f"{before}attributes"):
            if field not in batch:
                raise ValueError(f"the batch has no {field!r}: list it in --data.metadata")
            told[field] = [batch[field][row] for row in rows]
            for row, value in zip(rows, told[field], strict=True):
                if not value or (field.endswith("caption") and not isinstance(value, str)):
                    raise ValueError(f"sample {batch['key'][row]} has no {field!r} in its json")
        picture = pictures_of(batch, "edited" if before else "image")[list(rows)]
        ends.append(End(picture, *told.values()))
    return ends[0], ends[1]
