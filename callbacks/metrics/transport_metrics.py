"""Distances between what a conditional model samples and the truth, measured on the test rows."""

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.metrics.evaluation_rows import EvaluationRows
from fewstep.metrics import two_sample
from fewstep.metrics.intervals import bootstrap_mean, jackknife_error

CONDITIONAL = {
    "conditional_w2": two_sample.wasserstein2,
    "conditional_sw2": two_sample.sliced_wasserstein2,
    "conditional_energy": two_sample.energy_distance,
}
MARGINAL = {"marginal_sw2": two_sample.sliced_wasserstein2, "mmd": two_sample.mmd}


class TransportMetrics(Callback):
    """Logs, at the end of a test, from one sample for each test row:

    * `test/conditional_{w2,sw2,energy}`: means over the probe groups, each a distance between K samples and K true
      draws of y at the same conditions; with `_se`, the standard error of that mean;
    * `test/marginal_sw2`, `test/mmd`: the distance between all samples and all true y of the test pairs;
    * each with `_floor`: the same distance between two halves of the truth, which is what a perfect sampler scores on
      average (`two_sample.cross_halves`; therefore the metrics, too, compare halves).

    Reads dataloader 0 as pairs and 1 as probes. After the test, `rows` holds one value per row or group behind each
    mean, `pairs` the sampled and true y, and `intervals` turns both into confidence intervals.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Tensor] = {}  # metric name -> values [N] or [G], sorted by global index
        self.pairs: dict[str, Tensor] = {}  # index [N], sample [N, Dy], y [N, Dy]

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pairs, self._probes = EvaluationRows(), EvaluationRows()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not isinstance(outputs, dict) or "sample" not in outputs:
            raise ValueError("transport metrics need test_step to return a dict with a `sample` for each row")
        table = self._probes if dataloader_idx else self._pairs
        per_row = {k: v for k, v in outputs.items() if v.ndim == 1 and len(v) == len(batch["index"])}
        table.add(batch["index"], batch["weight"], sample=outputs["sample"], y=batch["y"], **per_row)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pairs, probes = self._pairs.gather(trainer), self._probes.gather(trainer)
        self.pairs = {name: pairs[name] for name in ("index", "sample", "y")} if pairs else {}
        self.rows = {f"test/{k}": v for k, v in pairs.items() if v.ndim == 1 and k != "index"} | _per_group(probes)
        measured: dict[str, Any] = {k: v.mean() for k, v in self.rows.items() if "conditional" in k}
        for name in CONDITIONAL if probes else ():
            values = self.rows[f"test/{name}"]
            measured[f"test/{name}_se"] = values.std() / math.sqrt(len(values))  # nan for a single group
        for name in MARGINAL if pairs else ():
            both = two_sample.cross_halves(MARGINAL[name], *_finite(pairs))
            measured |= dict(zip((f"test/{name}", f"test/{name}_floor"), both, strict=True))
        # Every rank measured the same rows, so the mean over ranks is the value itself.
        pl_module.log_dict({k: v.float().to(pl_module.device) for k, v in measured.items()}, sync_dist=True)

    def intervals(self, num_draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % intervals by metric name: percentile bootstrap over rows or probe groups, jackknife for marginals.

        Call it after the test; every rank holds all rows. Rows count as independent.
        """
        means = {name: values for name, values in self.rows.items() if len(values) > 1}
        result = {name: bootstrap_mean(values, num_draws, seed=seed) for name, values in means.items()}
        for name in MARGINAL if len(self.pairs.get("y", ())) >= 40 else ():

            def halves(sample: Tensor, y: Tensor, name: str = name) -> Tensor:
                return two_sample.cross_halves(MARGINAL[name], sample, y)[0]

            value = float(halves(self.pairs["sample"], self.pairs["y"]))
            margin = 1.96 * jackknife_error(halves, self.pairs["sample"], self.pairs["y"])
            result[f"test/{name}"] = (value - margin, value + margin)
        return result


def _per_group(probes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Distance and floor of each probe group: metric name -> [G]."""
    if not probes:
        return {}
    samples, truths = _finite(probes)
    values: dict[str, Tensor] = {}
    for name, distance in CONDITIONAL.items():
        both = [torch.stack(two_sample.cross_halves(distance, s, y)) for s, y in zip(samples, truths, strict=True)]
        values[f"test/{name}"], values[f"test/{name}_floor"] = torch.stack(both).T
    return values


def _finite(table: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    bad = ~torch.isfinite(table["sample"]).flatten(1).all(1)
    if bad.any():
        first = int(table["index"][bad][0])
        raise ValueError(f"the model's samples are not finite in {int(bad.sum())} test rows (first: row {first})")
    return table["sample"], table["y"]
