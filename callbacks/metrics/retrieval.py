"""How well images and captions find one another, over the whole validation or test set."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.metrics.both_stages import in_both_stages
from callbacks.metrics.measurements import Measured, publish
from callbacks.metrics.rows import EvaluationRows, intervals
from fewstep.contrastive.loss import retrieval_ranks


@in_both_stages
class RetrievalMetrics(Callback):
    """Logs recall at k, the share of queries with a right answer among the k most similar of all candidates:

    * `val/image_to_text_rK`: captions found by their image, `val/text_to_image_rK`: images found by their caption;
    * `val/mean_recall`: the mean of all of these, to select checkpoints by.

    With `test/` after a test. Every sample with weight 1 is one query and one candidate, whatever the batches and
    ranks. Candidates with an equal caption are as right as the sample's own. Chance is k / N.

    ks: the cut-offs k. Reads image_features, text_features [B, D] and label [B] of the outputs and weight of the
    batch. After the test, `rows` holds a 0 or 1 for each query behind each mean.
    """

    def __init__(self, ks: tuple[int, ...] = (1, 5)) -> None:
        if not ks or min(ks) < 1:
            raise ValueError(f"ks={tuple(ks)}: give whole numbers from 1, such as 1 5")
        self.ks = tuple(ks)
        self.rows: dict[str, Tensor] = {}  # log key -> values [N]
        self.measured: Measured = {}

    def start(self, trainer: Trainer) -> None:
        self._table, self._seen = EvaluationRows(), 0
        self._place = trainer.global_rank, trainer.world_size

    def add(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> None:
        columns = ("image_features", "text_features", "label")
        if not isinstance(outputs, dict) or not set(columns) <= outputs.keys():
            raise ValueError(f"retrieval metrics need a validation_step that returns a dict with {', '.join(columns)}")
        rank, processes = self._place
        rows = torch.arange(self._seen, self._seen + len(batch["weight"]))
        self._seen += len(rows)
        index = (rows * processes + rank).to(batch["weight"].device)
        self._table.add(index, batch["weight"], **{name: outputs[name] for name in columns})

    def finish(self, stage: str, trainer: Trainer, module: LightningModule) -> None:
        table = self._table.gather()
        if not table:
            return
        image, text, label = (table[name] for name in ("image_features", "text_features", "label"))
        ranks = {
            "image_to_text": retrieval_ranks(image, text, label),
            "text_to_image": retrieval_ranks(text, image, label),
        }
        self.rows = {f"{stage}/{way}_r{k}": (rank < k).float() for way, rank in ranks.items() for k in self.ks}
        means = {name: values.mean().item() for name, values in self.rows.items()}
        means[f"{stage}/mean_recall"] = sum(means.values()) / len(means)
        protocol = {"metric": "recall at k", "num_candidates": len(label), "num_captions": len(label.unique())}
        self.measured = publish(trainer, module, means, protocol)

    def intervals(self, num_draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals over queries by log key."""
        return intervals(self.rows, num_draws, seed)
