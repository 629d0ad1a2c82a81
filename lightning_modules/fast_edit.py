"""Fast text-driven editing: an unconditional diffusion model learns one edit from a few pictures.

Starodubcev et al. 2023, "Towards Real-time Text-driven Image Manipulation with Unconditional Diffusion Models" (arXiv
2304.04344); and what it is faster than, DiffusionCLIP (Kim et al. 2022, arXiv 2110.02711).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from fewstep.fast_edit.application import Application, apply_edit
from fewstep.fast_edit.direction.clips import edit_loss, load_edit_clip
from fewstep.fast_edit.direction.edit_loss import EditLossOptions
from fewstep.fast_edit.edit_base import load_base
from fewstep.fast_edit.edit_file import save_edit
from fewstep.fast_edit.edit_header import EditAbout, check_name
from fewstep.fast_edit.edit_texts import edit_texts
from fewstep.fast_edit.encoding import Encoding
from fewstep.fast_edit.growth import Growth
from fewstep.fast_edit.learning import EditLearning, LearningOptions
from fewstep.fast_edit.probe_options import ProbeOptions
from fewstep.fast_edit.tuned import TunedCopies
from fewstep.fast_edit.tuning import TuningOptions
from fewstep.files.weights import weights_sha256
from fewstep.optimizers import AdamW
from fewstep.rng import mix_seed, run_seed
from lightning_modules.evaluation_steps import log_mean, sample_rng
from lightning_modules.term_steps import step_for_each_term


class FastEditModule(LightningModule):
    """Tunes a frozen diffusion model so that what it makes of a noised picture lies in the direction of two texts.

    Args:
        base: folder or hub id of a pipeline, see fewstep.fast_edit.edit_base.load_base; frozen.
        edit: a name in fewstep/fast_edit/edits.yaml, or any name where texts are given.
        clips: of the loss, see fewstep.fast_edit.direction.clips.load_edit_clip; frozen.
        source, target: texts of what is in the pictures and what shall be, one each or as many of one as of the other.
        templates: see prompt_templates; None for those of the dictionary, or "imagenet".
        enlarge: how often a CLIP sees every pixel in each direction: 4 for drawings of 16 px and a CLIP of 64.
        learning: encoding, gradient and reference; None for the defaults with the dictionary's t0.
        loss: weights of the terms, and views.
        tuning: an adapter or a whole network.
        application: of validation, test, predict and the exported file; None for the defaults with the encoding of
            learning; one that is given has a t0 of its own.
        optimizer: see fewstep.optimizers.AdamW; the papers decay no weights.
        growth: of its learning rate; None for none.
        probe: looks at the edits of validation and test and can end the run, see ProbeOptions; None for none.

    A batch has `image` [B, 3, H, W]; no captions are read. With gradient.mode "eff" a batch gives an optimizer step for
    each of its estimates: gradients are then clipped to 1 here, not by the trainer, and one iteration is one step of
    the learning rate, in one process.
    """

    def __init__(
        self,
        base: str,
        edit: str,
        clips: Sequence[str],
        source: str | Sequence[str] | None = None,
        target: str | Sequence[str] | None = None,
        templates: str | None = None,
        enlarge: int = 1,
        learning: LearningOptions | None = None,
        loss: EditLossOptions | None = None,
        tuning: TuningOptions | None = None,
        application: Application | None = None,
        optimizer: AdamW = AdamW(lr=2e-3, schedule="constant"),
        growth: Growth | None = None,
        probe: ProbeOptions | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["learning", "loss", "tuning", "application", "optimizer", "growth", "probe"])
        check_name(edit, "edit")
        self.texts = edit_texts(edit, source, target, templates)
        given = Encoding() if self.texts.t0 is None else Encoding(self.texts.t0)
        self.learning = learning or LearningOptions(given)
        self.application = application or Application(self.learning.encoding)
        self.automatic_optimization = self.learning.gradient.updates == 1
        towers = [load_edit_clip(clip, enlarge) for clip in clips]
        self.loss = edit_loss(towers, *self.texts[:3], loss or EditLossOptions())
        self.look = None if probe is None else probe.of(self.texts, enlarge)
        frozen = load_base(base)
        self.hashes = {"base": frozen.sha256}
        self.hashes |= {f"clip {place}": weights_sha256(tower) for place, tower in enumerate(towers)}
        self.tuned = (tuning or TuningOptions()).of(frozen, [edit], run_seed())
        self.source, self.optimizer = EditLearning(self.tuned, edit, self.loss, self.learning, run_seed()), optimizer
        self.weights, self.growth = _trained(self.tuned, edit), growth  # all that is trained and stored

    def setup(self, stage: str) -> None:
        if not self.automatic_optimization and (self.trainer.world_size > 1 or self.trainer.precision == "16-mixed"):
            raise ValueError('gradient.mode="eff" works in one process without float16 scaling; use "one_step"')
        device = self.trainer.strategy.root_device
        self.tuned.base.to(device)
        self.loss.to(device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        """Noise and views belong to the keys and to the number of the step."""
        steps = self.source.losses(batch["image"], batch["key"], self.global_step)
        if not self.automatic_optimization:
            names = [f"step_{number}" for number in range(self.learning.gradient.updates)]
            return step_for_each_term(self, dict.fromkeys(names, 1.0), lambda _: next(steps).total)
        losses = next(steps)
        loss = losses.total.mean()
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}_loss": values.detach().mean() for name, values in losses.terms.items()})
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """The edited pictures `image`, their sources `reference` and the losses between them; noise is the key's."""
        return self._evaluate("val", batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: dict[str, Any]) -> dict[str, Tensor]:
        sources = batch["image"]
        edited = self._edited(batch)
        views = mix_seed(run_seed(), f"views {' '.join(map(str, batch['key']))}")
        losses = self.loss(edited, sources, self.loss.reference(sources), views)
        for name, values in losses.terms.items():
            log_mean(self, f"{stage}/{name}_loss", values, batch["weight"], prog_bar=name == "direction")
        for name, values in ({} if self.look is None else self.look(edited)).items():
            log_mean(self, f"{stage}/{name}", values, batch["weight"], prog_bar=name == "probe_share")
        passes = torch.full((len(sources),), self.application.passes(self.hparams.edit), device=sources.device)
        return {"image": edited, "reference": sources, "loss": losses.total, "nfe": passes}

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """`image` [B, 3, H, W] in [-1, 1], edited; `mask` [B, 1, H, W] of the batch, if there, is 1 where it may be."""
        if "image" not in batch:
            raise ValueError("there is no picture to edit; give one, not prompts")
        return {"image": self._edited(batch)}

    def _edited(self, batch: dict[str, Any]) -> Tensor:
        rng = sample_rng(batch["key"], self.device)
        return apply_edit(self.tuned, batch["image"], self.hparams.edit, rng, self.application, batch.get("mask"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["frozen"] = dict(self.hashes)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored = checkpoint.get("frozen", self.hashes)
        for part, present in self.hashes.items():
            if stored.get(part) != present:
                raise ValueError(f"the checkpoint was trained with another {part} ({stored.get(part)}, here {present})")

    def export(self, folder: str) -> None:
        """Write EDIT.safetensors, all that `python -m fewstep.fast_edit apply` needs beside the base; not audited."""
        source, target, templates, _ = self.texts
        told = self.hparams.base, self.learning.gradient, self.learning.encoding, self.application, templates
        seen = {"clips": tuple(self.hparams.clips), "enlarge": self.hparams.enlarge}
        name, about = self.hparams.edit, EditAbout(source, target, *told, **seen)
        save_edit(Path(folder, f"{name}.safetensors"), self.tuned, name, about, overwrite=True)

    def configure_optimizers(self) -> dict[str, Any]:
        return self.optimizer.configure(self.parameters(), lambda: self.trainer.estimated_stepping_batches, self.growth)


def _trained(tuned: Any, edit: str) -> nn.Module:
    if isinstance(tuned, TunedCopies):
        return tuned.networks[edit]
    return nn.ParameterDict(
        {name.replace(".", "/"): weight for name, weight in zip(tuned.state(edit), tuned.parameters(edit), strict=True)}
    )
