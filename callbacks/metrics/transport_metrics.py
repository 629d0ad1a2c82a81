"""Distances between what a conditional model samples and the truth, measured on the test rows."""

import math

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.metrics.both_stages import in_stages
from callbacks.metrics.measurements import Measured, publish
from callbacks.metrics.rows import EvaluationRows, intervals
from fewstep.metrics import point_clouds
from fewstep.metrics.intervals import jackknife_error

CONDITIONAL = {
    "conditional_w2": point_clouds.wasserstein2,
    "conditional_sw2": point_clouds.sliced_wasserstein2,
    "conditional_energy": point_clouds.energy_distance,
}
MARGINAL = {"marginal_sw2": point_clouds.sliced_wasserstein2, "mmd": point_clouds.mmd}


@in_stages("test")
class TransportMetrics(Callback):
    """Logs, at the end of a test, from one sample for each test row:

    * `test/conditional_{w2,sw2,energy}`: means over the probe groups, each a distance between K samples and K true
      draws of y at the same conditions; with `_se`, the standard error of that mean;
    * `test/marginal_sw2`, `test/mmd`: the distance between all samples and all true y of the test pairs;
    * each with `_floor`: the same distance between two halves of the truth, which is what a perfect sampler scores on
      average (`point_clouds.cross_halves`; therefore the metrics, too, compare halves).

    Reads dataloader 0 as pairs and 1 as probes. After the test, `rows` holds one value per row or group behind each
    mean, `pairs` the sampled and true y, and `intervals` turns both into confidence intervals.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Tensor] = {}  # metric name -> values [N] or [G], sorted by global index
        self.measured: Measured = {}
        self.pairs: dict[str, Tensor] = {}  # index [N], sample [N, Dy], y [N, Dy]

    def start(self, trainer: Trainer) -> None:
        self._pairs, self._probes = EvaluationRows(), EvaluationRows()

    def add(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        if "class_log_prob" in (outputs or {}):
            raise ValueError("distances between class numbers mean nothing; measure `accuracy` of labels")
        _add(self._pairs, outputs, batch)

    def add_probes(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        _add(self._probes, outputs, batch)

    def finish(self, stage: str, trainer: Trainer, module: LightningModule) -> None:
        pairs, probes = self._pairs.gather(), self._probes.gather()
        self.pairs = {name: pairs[name] for name in ("index", "sample", "y")} if pairs else {}
        self.rows = {f"test/{k}": v for k, v in pairs.items() if v.ndim == 1 and k != "index"} | _per_group(probes)
        values = {k: v.mean().item() for k, v in self.rows.items() if "conditional" in k}
        for name in CONDITIONAL if probes else ():
            distances = self.rows[f"test/{name}"]
            values[f"test/{name}_se"] = distances.std().item() / math.sqrt(len(distances))  # nan for a single group
        for name in MARGINAL if pairs else ():
            both = point_clouds.cross_halves(MARGINAL[name], *_finite(pairs))
            values |= zip((f"test/{name}", f"test/{name}_floor"), (value.item() for value in both), strict=True)
        groups = probes["y"].shape[:2] if probes else (0, 0)
        protocol = {"metric": "halves of samples against halves of the truth", "num_rows": len(self.pairs.get("y", ()))}
        self.measured = publish(
            trainer, module, values, protocol | {"num_probes": groups[0], "rows_per_probe": groups[1]}
        )

    def intervals(self, num_draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % intervals by metric name: percentile bootstrap over rows or probe groups, jackknife for marginals.

        Call it after the test; every rank holds all rows. Rows count as independent.
        """
        result = intervals(self.rows, num_draws, seed)
        for name in MARGINAL if len(self.pairs.get("y", ())) >= 40 else ():

            def halves(sample: Tensor, y: Tensor, name: str = name) -> Tensor:
                return point_clouds.cross_halves(MARGINAL[name], sample, y)[0]

            value = float(halves(self.pairs["sample"], self.pairs["y"]))
            margin = 1.96 * jackknife_error(halves, self.pairs["sample"], self.pairs["y"])
            result[f"test/{name}"] = (value - margin, value + margin)
        return result


def _add(table: EvaluationRows, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
    if not isinstance(outputs, dict) or "sample" not in outputs:
        raise ValueError("transport metrics need test_step to return a dict with a `sample` for each row")
    per_row = {k: v for k, v in outputs.items() if v.ndim == 1 and len(v) == len(batch["index"])}
    table.add(batch["index"], batch["weight"], sample=outputs["sample"], y=batch["y"], **per_row)


def _per_group(probes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Distance and floor of each probe group: metric name -> [G]."""
    if not probes:
        return {}
    samples, truths = _finite(probes)
    values: dict[str, Tensor] = {}
    for name, distance in CONDITIONAL.items():
        both = [torch.stack(point_clouds.cross_halves(distance, s, y)) for s, y in zip(samples, truths, strict=True)]
        values[f"test/{name}"], values[f"test/{name}_floor"] = torch.stack(both).T
    return values


def _finite(table: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    bad = ~torch.isfinite(table["sample"]).flatten(1).all(1)
    if bad.any():
        first = int(table["index"][bad][0])
        raise ValueError(f"the model's samples are not finite in {int(bad.sum())} test rows (first: row {first})")
    return table["sample"], table["y"]
