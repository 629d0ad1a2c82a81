"""Contrastive training of an image and a text tower (CLIP; Radford et al. 2021, arXiv 2103.00020)."""

import random
import sys
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from fewstep.augmentation import Augmentation
from fewstep.contrastive.loss import contrastive_loss, labels_of
from fewstep.contrastive.vocabulary import share_in_pieces
from fewstep.optimizers import AdamW
from lightning_modules.evaluation_steps import log_mean, pictures_of

MOST_IN_PIECES = 0.2  # of the words of captions that a vocabulary was learnt from
CAPTION, VARIANT = "--model.caption_field caption", "--model.variant null"


class ContrastiveModule(LightningModule):
    """Trains images and captions to find one another.

    Args:
        model: `fewstep.contrastive.network.CLIPNetwork`, or a network with encode_image(images [B, 3, H, W] in [-1, 1])
            and encode_text(captions) -> unit vectors [B, D], scale, clamp_scale(largest) and parameter_groups() ->
            {"decay": ..., "free": ...}.
        optimizer: see fewstep.optimizers.AdamW; only the "decay" group decays.
        max_scale: the inverse temperature is learned but kept within 1..max_scale.
        positive_field: field of the batch; pairs of a batch that agree in it are positives of one another, such as
            drawings of one `concept`. None: only the pair itself is, as in CLIP. Pairs with equal captions need no
            such field (see contrastive_loss).
        caption_field: field of the batch that holds the captions; where it holds lists, training draws one of each at
            random and evaluation takes the first.
        variant: {field of further pictures: field of their captions}, such as {edited: edited_caption}: the same
            samples with one thing changed, which are trained on beside the pictures and are hard negatives of them.
        augmentation: of training pictures, see fewstep.augmentation.Augmentation.

    Several processes compare all rows of their batches with one another: the same step as one process with them all.
    `val/loss` compares within a batch of each process, so it depends on `eval_batch_size`; retrieval does not
    (callbacks/metrics/retrieval.py). With a variant `val/variant_accuracy` is the share of pictures and variants that
    are nearer to their own caption than to the other's; by chance 0.5.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: AdamW = AdamW(lr=1e-3, betas=(0.9, 0.98), weight_decay=0.1, warmup_steps=200),
        max_scale: float = 100.0,
        positive_field: str | None = None,
        caption_field: str = "caption",
        variant: dict[str, str] | None = None,
        augmentation: Augmentation = Augmentation(),
    ) -> None:
        super().__init__()
        if not max_scale > 1:
            raise ValueError(f"max_scale={max_scale}: must be above 1")
        if variant is not None and len(variant) != 1:
            raise ValueError(f"variant={variant}: name one field of pictures and the field of their captions")
        self.save_hyperparameters(ignore=["optimizer", "augmentation"])
        self.model, self.optimizer, self.augmentation = model, optimizer, augmentation

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Before the first step: one line on stderr where the vocabulary is another data set's."""
        vocabulary = getattr(self.model, "vocabulary", None)
        if vocabulary is None or self.global_step or batch_idx or self.global_rank:
            return
        captions = _captions(batch, self.hparams.caption_field, training=False)
        if (share := share_in_pieces(captions, self.model.tokenizer)) > MOST_IN_PIECES:
            print(
                f"vocabulary {vocabulary} is another data set's: {share:.0%} of the words are in pieces; learn one: "
                "python -m datamodules.prepare vocabulary --data DIR --out bpe.txt.gz, then --model.model.vocabulary "
                "bpe.txt.gz",
                file=sys.stderr,
            )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.model.clamp_scale(self.hparams.max_scale)  # of the step before
        loss = self._losses(batch, training=True)["loss"].mean()
        self.log_dict({"train/loss": loss, "train/scale": self.model.scale}, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """image_features, text_features [B, D], loss [B], label int64 [B] (equal for equal captions)."""
        return self._evaluate("val", batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate("test", batch)

    def export(self, folder: str) -> None:
        """Write the network as it is now to a folder that open_clip loads."""
        self.model.export(folder)

    def _evaluate(self, stage: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        outputs = self._losses(batch, training=False)
        log_mean(self, f"{stage}/loss", outputs["loss"], batch["weight"], prog_bar=True)
        for pictures, told in (self.hparams.variant or {}).items():
            captions = _captions(batch, told, False, VARIANT)
            image, text = self.model.encode_image(pictures_of(batch, pictures)), self.model.encode_text(captions)
            difference = outputs["text_features"] - text  # of their own caption and the other's
            right = ((outputs["image_features"] * difference).sum(1) > 0).float() + ((image * difference).sum(1) < 0)
            log_mean(self, f"{stage}/variant_accuracy", right / 2, batch["weight"], prog_bar=True)
        return outputs

    def _losses(self, batch: dict[str, Any], training: bool) -> dict[str, Tensor]:
        images, captions = batch["image"], _captions(batch, self.hparams.caption_field, training)
        field = self.hparams.positive_field
        positives = None if field is None else labels_of(batch[field], images.device)
        if training:
            for pictures, told in (self.hparams.variant or {}).items():
                images = torch.cat([images, pictures_of(batch, pictures)])
                captions = captions + _captions(batch, told, training, VARIANT)
                if positives is not None:  # what makes samples positives of one another may be what is changed
                    alone = labels_of([("variant", key) for key in batch["key"]], images.device)
                    positives = torch.cat([positives, alone])
            images = self.augmentation(images)
        image, text = self.model.encode_image(images), self.model.encode_text(captions)
        if training:
            loss = contrastive_loss(image, text, self.model.scale, positives, across_ranks=True)
        else:
            real = batch["weight"] > 0  # padding is nobody's negative
            positives = None if positives is None else positives[real]
            loss = torch.zeros_like(batch["weight"])
            loss[real] = contrastive_loss(image[real], text[real], self.model.scale, positives)
        labels = labels_of(captions, image.device)
        return {"image_features": image, "text_features": text, "loss": loss, "label": labels}

    def configure_optimizers(self) -> dict[str, Any]:
        groups = self.model.parameter_groups()
        parameters = [{"params": groups["decay"]}, {"params": groups["free"], "weight_decay": 0.0}]
        return self.optimizer.configure(parameters, lambda: self.trainer.estimated_stepping_batches)


def _captions(batch: dict[str, Any], field: str, training: bool, otherwise: str = CAPTION) -> list[str]:
    """One caption per sample, "" for those of weight 0; ValueError in one line where a sample has none.

    otherwise: the flag that does without the field.
    """
    if field not in batch:
        raise ValueError(f"the batch has no {field!r}: list it in --data.metadata or set {otherwise}")
    weights = batch["weight"].tolist() if "weight" in batch else [1.0] * len(batch[field])
    captions = []
    for key, entry, weight in zip(batch["key"], batch[field], weights, strict=True):
        if not entry and weight:
            raise ValueError(f"sample {key} has no {field!r} in its json; set {otherwise}")
        several = entry if isinstance(entry, list) and entry else [entry or ""]
        if not all(isinstance(caption, str) for caption in several):
            raise ValueError(f"sample {key}: {field!r} in its json is no caption and no list of captions")
        captions.append(random.choice(several) if training else several[0])
    return captions
