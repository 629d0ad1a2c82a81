"""How often the most likely class is the label, over the whole validation or test set."""

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.metrics.both_stages import in_both_stages
from callbacks.metrics.measurements import Measured, publish
from callbacks.metrics.rows import EvaluationRows, intervals


@in_both_stages
class AccuracyCallback(Callback):
    """Logs `val/accuracy` and `test/accuracy`: the share of rows whose most likely class is their label.

    Reads class_log_prob [B, K] of the outputs, y [B, 1], index and weight of the batch. Every row of weight 1 counts
    once, whatever the batches and ranks. Afterwards `rows` holds a 0 or 1 for each row, and `nll` where the outputs
    have it, by log key.
    """

    def __init__(self) -> None:
        self.rows: dict[str, Tensor] = {}  # log key -> values [N], sorted by global index
        self.measured: Measured = {}

    def start(self, trainer: Trainer) -> None:
        self._table = EvaluationRows()

    def add(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
        if not isinstance(outputs, dict) or "class_log_prob" not in outputs:
            raise ValueError("accuracy needs steps that return a dict with class_log_prob: a model of labels")
        right = (outputs["class_log_prob"].argmax(1) == batch["y"][:, 0]).float()
        nll = {"nll": outputs["nll"]} if "nll" in outputs else {}
        self._table.add(batch["index"], batch["weight"], accuracy=right, **nll)

    def finish(self, stage: str, trainer: Trainer, module: LightningModule) -> None:
        table = self._table.gather()
        if not table:
            return
        self.rows = {f"{stage}/{name}": values for name, values in table.items() if name != "index"}
        key = f"{stage}/accuracy"
        protocol = {"metric": "share of rows whose most likely class is the label", "num_rows": len(table["index"])}
        self.measured = publish(trainer, module, {key: self.rows[key].mean().item()}, protocol)

    def intervals(self, num_draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals over rows by log key."""
        return intervals(self.rows, num_draws, seed)
