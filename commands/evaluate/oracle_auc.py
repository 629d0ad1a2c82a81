"""How well the oracle that has routed tells right drafts from wrong ones, by the reader that measures."""

import sys
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from callbacks.metrics.attributes import AttributeCallback
from callbacks.metrics.image_outputs import chosen, counted, generated_images
from callbacks.metrics.measurements import publish
from fewstep.collaboration.analysis.predictors import auc
from fewstep.metrics.features import full_float32
from fewstep.rewards.attributes import judge


@rank_zero_only
def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class OracleAUC(AttributeCallback):
    """Logs `test/oracle_auc` with the interval of DeLong et al. 1988: the probability that of a draft in which all that
    is asked is right and of one in which it is not, the first has the higher score of the oracle.

    of: the callback of the reader that says what is right; it measures the pictures that were returned. Reads `draft`
    and `draft_score` of the outputs. Left out, in one line, where fewer than two drafts are right, or wrong.
    """

    def __init__(self, of: AttributeCallback) -> None:
        super().__init__(of.reader, of.field, of.prefix)

    def add(self, outputs: dict[str, Any], batch: dict[str, Any]) -> None:
        rows = counted(batch)
        drafts = generated_images(outputs, rows, "draft")
        with full_float32(drafts.device):
            found = judge(self.reader, drafts.float().div(127.5).sub(1), chosen(batch, self.field, rows, "oracle_auc"))
        scores = outputs["draft_score"][rows.rows.to(outputs["draft_score"].device)]
        self._values.add(rows.keys, right=found.all_right, score=scores)

    def finish(self, stage: str, trainer: Trainer, module: LightningModule) -> None:
        keys, columns = self._values.gather()
        name, right = f"{stage}/{self.prefix}oracle_auc", columns["right"] > 0
        try:
            value, *ends = auc(columns["score"], right)
        except ValueError:
            tell(f"{name} is left out: {int(right.sum())} of {len(keys)} drafts are right, which tells nothing")
            return
        protocol = {"metric": "AUC of the oracle on the student's pictures", "num_generated": len(keys)}
        self.measured = publish(trainer, module, {name: value}, protocol, {name: (ends[0], ends[1])})
