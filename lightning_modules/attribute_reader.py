"""Training of a network that reads attributes of pictures: the judge of what generators draw."""

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from fewstep.augmentation import Augmentation
from fewstep.backbones import copied_to
from fewstep.choices import DTYPES, require_choice
from fewstep.gathering import gather
from fewstep.optimizers import AdamW
from fewstep.rewards.attribute_reader import AttributeReader, reading_losses
from fewstep.rewards.attributes import labels_of, listed, tiles
from lightning_modules.evaluation_steps import log_mean, pictures_of


class AttributeReaderModule(LightningModule):
    """Trains a reader to tell the attributes of pictures, each by the model's objective.

    Args:
        model: fewstep.rewards.attribute_reader.AttributeReader.
        pictures: {field of the batch that holds pictures: field that holds their attributes}. A sample's attributes are
            {attribute: value}, or for several persons beside each other a list of these; what is absent is not learnt.
            None: {image: attributes}.
        augmentation: of training pictures, see fewstep.augmentation.Augmentation.
        optimizer: see fewstep.optimizers.AdamW.
        export_dtype: "float32" or "float16", of the exported weights.

    Every validation calibrates the reader by the pictures of all processes (AttributeReader.calibrate), and so the
    checkpoint after it.
    """

    def __init__(
        self,
        model: AttributeReader,
        pictures: dict[str, str] | None = None,
        augmentation: Augmentation = Augmentation(),
        optimizer: AdamW = AdamW(lr=1e-3, weight_decay=0.05, warmup_steps=50),
        export_dtype: str = "float16",
    ) -> None:
        super().__init__()
        require_choice("export_dtype", export_dtype, ("float32", "float16"))
        self.save_hyperparameters(ignore=["model", "augmentation", "optimizer"])
        self.fields = pictures or {"image": "attributes"}
        self.model, self.augmentation, self.optimizer = model, augmentation, optimizer
        self.evaluated: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []  # logits and labels of an evaluation

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        images, persons = self._pictures(batch)
        labels = labels_of([person for several in persons for person in several], self.model.values, self.device)
        logits = self.model.logits(self.augmentation(tiles(images, len(persons[0]))))
        counts = {name: (told >= 0).sum().clamp(min=1) for name, told in labels.items()}
        losses = self._losses(logits, labels)
        loss = torch.stack([values.sum() / counts[name] for name, values in losses.items()]).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        self.evaluated = []

    def on_validation_epoch_end(self) -> None:
        evaluated = [batch for part in gather(self.evaluated) for batch in part]
        if evaluated:
            self.model.calibrate(*(_joined(columns) for columns in zip(*evaluated, strict=True)))
        self.evaluated = []

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """loss, attributes_right, all_right [B] of the first field of pictures, as they are."""
        return self._evaluate("val", batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        weight = batch["weight"]
        rows = weight.nonzero()[:, 0].tolist()  # those without weight may have neither a picture nor attributes
        outputs = {name: torch.zeros_like(weight) for name in ("loss", "attributes_right", "all_right")}
        if rows:
            field, told = next(iter(self.fields.items()))
            persons = listed([_attributes(batch, told, row) for row in rows])
            labels = labels_of([person for several in persons for person in several], self.model.values, self.device)
            logits = self.model.logits(tiles(pictures_of(batch, field)[rows], len(persons[0])))
            if stage == "val":
                self.evaluated.append(({n: v.float().cpu() for n, v in logits.items()}, _on_cpu(labels)))
            losses = torch.stack(list(self._losses(logits, labels).values()), 1)
            right = torch.stack([values.argmax(1) == labels[name] for name, values in logits.items()], 1)
            told_of = torch.stack([values >= 0 for values in labels.values()], 1)
            by_picture = [values.unflatten(0, (len(rows), -1)).flatten(1) for values in (losses, right, told_of)]
            loss, correct, counted = (values.float() for values in by_picture)
            total = counted.sum(1).clamp(min=1)
            outputs["loss"][rows] = loss.sum(1) / total
            outputs["attributes_right"][rows] = correct.sum(1) / total
            outputs["all_right"][rows] = (correct == counted).all(1).float()
        for name, values in outputs.items():
            log_mean(self, f"{stage}/{name}", values, weight, prog_bar=name != "attributes_right")
        return outputs

    def _losses(self, logits: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """{attribute: [N]}, 0 where nothing is told."""
        return {n: reading_losses(values, labels[n], self.model.objective) for n, values in logits.items()}

    def _pictures(self, batch: dict[str, Any]) -> tuple[Tensor, list]:
        """All fields of pictures one after the other, and the persons that each shows."""
        fields, rows = self.fields, range(len(batch["key"]))
        persons = [_attributes(batch, told, row) for told in fields.values() for row in rows]
        return torch.cat([pictures_of(batch, field) for field in fields]), listed(persons)

    def export(self, folder: str) -> None:
        """Write a folder that fewstep.rewards.attribute_reader.load_attribute_reader reads."""
        if (self.model.temperatures == 1).all():
            raise ValueError("the reader is not calibrated: validate it before the export")
        copied_to(self.model, DTYPES[self.hparams.export_dtype]).save_pretrained(folder)

    def configure_optimizers(self) -> dict[str, Any]:
        return self.optimizer.configure(self.parameters(), lambda: self.trainer.estimated_stepping_batches)


def _attributes(batch: dict[str, Any], field: str, row: int) -> Any:
    """Of a sample; ValueError in one line where there are none."""
    if field not in batch:
        raise ValueError(f"the batch has no {field!r}: list it in --data.metadata")
    if not batch[field][row]:
        raise ValueError(f"sample {batch['key'][row]} has no {field!r} in its json")
    return batch[field][row]


def _on_cpu(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in values.items()}


def _joined(batches: tuple[dict[str, Tensor], ...]) -> dict[str, Tensor]:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
