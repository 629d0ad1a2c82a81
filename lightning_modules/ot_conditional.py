"""Semi-supervised learning of p(y|x) by inverse entropic optimal transport (arXiv 2410.02628)."""

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from fewstep.cadence import due
from fewstep.optimizer_options import check_adamw
from fewstep.optimizers import scheduled
from fewstep.rng import run_seed
from fewstep.transport.conditional_model import ConditionalModel
from fewstep.transport.dimensions import check_dimensions
from fewstep.transport.predictions import answers
from fewstep.transport.saved_models import describe, save
from fewstep.transport.table_scale import far_values
from fewstep.transport.units import Units, read_units
from lightning_modules.evaluation_steps import log_mean, sample_rng

SCHEDULES = ("constant", "cosine")


class OTConditionalModule(LightningModule):
    """Trains a conditional density on few pairs and many unpaired x and y.

    Args:
        model: of fewstep.transport `light_transport.LightTransport` (closed form), `energy.EnergyTransport` (neural),
            or any network with losses(batch) -> named scalars that add up, log_density(y, x), sample(x, rng),
            initialise(x, y) and parameter_groups() -> {"cost": ..., "potential": ...}; with diagnostics(x) -> named
            scalars these are logged at every validation. `discrete_transport.DiscreteTransport` where y is a label:
            its class_log_prob(x) [B, K] then stands in the outputs of validation and test, and check_labels(y)
            raises ValueError for a label that is none. `stacked_transport.StackedTransport` fits any table: it has
            start(x, y, x_unpaired, y_unpaired), which gets all pairs and leaves some out itself; keep_best() before
            every validation, and held_out_nll, which is then `val/nll`.
        cost_lr, potential_lr: the two learning rates of the paper.
        cost_weight_decay, potential_weight_decay: decoupled (AdamW).
        betas: of Adam.
        schedule: "constant" or "cosine" to zero over `max_steps`.
        x_noise: standard deviation of the Gaussian noise added to paired x in training, in units of x. Few pairs are
            then kernels instead of points, which keeps a flexible cost net from memorising them.

    With several processes the product over unpaired x and y of the "marginal" objective is taken within each process;
    the other objectives are means over rows and give the same step on any number of processes.

    Held-out conditional NLL (`val/nll`) is the only quantity to select on: the paper's loss is not bounded below.
    """

    def __init__(
        self,
        model: nn.Module,
        cost_lr: float = 3e-4,
        potential_lr: float = 1e-3,
        cost_weight_decay: float = 0.0,
        potential_weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        schedule: str = "constant",
        x_noise: float = 0.0,
    ) -> None:
        super().__init__()
        check_adamw(cost_lr, betas, cost_weight_decay, prefix="cost_")
        check_adamw(potential_lr, betas, potential_weight_decay, prefix="potential_")
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule={schedule!r}: choose one of {', '.join(SCHEDULES)}")
        self.save_hyperparameters()
        self.model = model
        self.units: Units | None = None  # of the table that is learnt from
        self.units_of_data: Units | None = None  # of the one that is read now

    def setup(self, stage: str) -> None:
        """Places the model on the data before the first step; a checkpoint, restored later, overwrites this."""
        columns = getattr(self.trainer.datamodule, "columns", None)
        self.units_of_data = columns and read_units(columns, "the data")
        if stage != "fit":
            self._require_its_units()
        else:
            self.units = self.units_of_data
            tables = self.trainer.datamodule.reference(getattr(self.model, "reference_rows", 4096))
            num_pairs, needed = len(tables["y"]), getattr(self.model, "min_pairs", 1)
            if num_pairs < needed:
                raise ValueError(
                    f"{num_pairs} training pairs for {needed} components with full covariance: lower num_potential, "
                    "raise num_pairs or choose covariance=diagonal"
                )
            known_y = torch.cat([tables["y_unpaired"], tables["y"]])
            self.model.initialise(tables["x_unpaired"], known_y)
            if not hasattr(self.model, "check_labels") and (note := far_values(known_y)):
                self.print(f"note    {note}")
            if hasattr(self.model, "keep_best"):
                self._start_from_pairs(tables)
            if hasattr(self.model, "check_labels") and self.trainer.datamodule.num_val:
                self.model.check_labels(self.trainer.datamodule.val_columns["y"])  # not at the first validation only

    def _start_from_pairs(self, tables: dict[str, Tensor]) -> None:
        """All pairs, those of validation too: the model leaves some out itself, and judges by them."""
        known = [tables, self.trainer.datamodule.val_columns] if self.trainer.datamodule.num_val else [tables]
        x, y = (torch.cat([rows[side] for rows in known]) for side in "xy")
        self.model.start(x, y, tables["x_unpaired"], tables["y_unpaired"])

    def on_validation_epoch_start(self) -> None:
        if self.trainer.state.fn == "fit" and hasattr(self.model, "keep_best"):
            self.model.keep_best()  # of the averaged weights, which are in place now

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        if self.hparams.x_noise:
            batch = {**batch, "x": batch["x"] + self.hparams.x_noise * torch.randn_like(batch["x"])}
        terms = self.model.losses(batch)
        loss = torch.stack(list(terms.values())).sum()
        # Lightning drops what is logged between two of its steps, but takes 2 ms to do so.
        if due(self.global_step + 1, self.trainer.log_every_n_steps):
            self.log("train/loss", loss, prog_bar=True)
            self.log_dict({f"train/{name}_loss": term for name, term in terms.items()})
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        check_dimensions(self.model, batch["x"].shape[-1], batch["y"].shape[-1])
        if batch_idx == 0 and hasattr(self.model, "diagnostics"):
            values = self.model.diagnostics(batch["x"])
            self.log_dict({f"diagnostics/{name}": value for name, value in values.items()}, sync_dist=True)
        return self._likelihoods("val", batch)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Pairs (x [B, Dx]): nll and one sample per row. Probe groups (x [G, K, Dx]): one sample per row."""
        check_dimensions(self.model, batch["x"].shape[-1], batch["y"].shape[-1])
        if batch["x"].ndim == 3:
            groups, rows = batch["x"].shape[:2]
            keys = [f"probe-{group}-{row}" for group in batch["index"].tolist() for row in range(rows)]
            return {"sample": self._sample(batch["x"].flatten(0, 1), keys).unflatten(0, (groups, rows))}
        keys = [f"pair-{index}" for index in batch["index"].tolist()]
        return self._likelihoods("test", batch) | {"sample": self._sample(batch["x"], keys)}

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """What the model says in natural units of x float64 [B, Dx], and of y [B, Dy] if there: see `answers`."""
        asked = {name: batch[name] for name in ("num_samples", "levels")} | {"seed": run_seed()}
        return answers(self.conditional(), batch["x"], batch.get("y"), keys=batch["index"].tolist(), **asked)

    def conditional(self) -> ConditionalModel:
        """The model in natural units; ValueError where a checkpoint from before they were kept has been loaded."""
        if self.units is None:
            raise ValueError("the checkpoint does not tell the columns of its table; train it again")
        return ConditionalModel(self.model, self.units)

    def export(self, folder: str) -> None:
        """Write a folder that `fewstep.transport.load` reads."""
        save(self.conditional(), folder)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["transport"] = describe(self.model, self.units)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the columns over; the network is that of the config."""
        columns = (checkpoint.get("transport") or {}).get("columns")
        self.units = self.units if columns is None else read_units(columns, "the checkpoint")
        self._require_its_units()

    def _require_its_units(self) -> None:
        """ValueError in one line for standardised rows that are in other units than those that were learnt from."""
        if self.units and self.units_of_data and (told := self.units_of_data.mismatch(self.units)):
            raise ValueError(
                f"the data are in other units than those of the training: {told}; build them with "
                "`python -m datamodules.prepare table --like FOLDER`, the folder of the training"
            )

    def _likelihoods(self, stage: str, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """nll [B] and, of a model of labels, class_log_prob [B, K].

        Logs the mean nll over rows of weight 1, the same for any split of the rows over batches and ranks.
        """
        nll = -self.model.log_density(batch["y"], batch["x"])
        if stage == "val" and hasattr(self.model, "keep_best"):  # the validation pairs were trained on, too
            self.log("val/nll", self.model.held_out_nll, prog_bar=True, sync_dist=True, batch_size=len(nll))
            return {"nll": nll}
        log_mean(self, f"{stage}/nll", nll, batch["weight"], prog_bar=True, add_dataloader_idx=False)
        if not hasattr(self.model, "class_log_prob"):
            return {"nll": nll}
        return {"nll": nll, "class_log_prob": self.model.class_log_prob(batch["x"])}

    def _sample(self, x: Tensor, keys: list[str]) -> Tensor:
        return self.model.sample(x, sample_rng(keys, x.device))

    def configure_optimizers(self) -> Any:
        h, groups = self.hparams, self.model.parameter_groups()
        optimizer = torch.optim.AdamW(
            [
                {"params": groups["cost"], "lr": h.cost_lr, "weight_decay": h.cost_weight_decay},
                {"params": groups["potential"], "lr": h.potential_lr, "weight_decay": h.potential_weight_decay},
            ],
            betas=tuple(h.betas),
        )
        if h.schedule == "constant":
            return optimizer
        return scheduled(optimizer, self.trainer.estimated_stepping_batches)
