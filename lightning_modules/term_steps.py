"""An optimizer step for each term of a loss, the next term with the new weights: as the authors of iCD train."""

from collections.abc import Callable, Mapping

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor


def require_one_process(trainer: Trainer) -> None:
    """ValueError in one line where one iteration cannot make several steps."""
    if trainer.world_size > 1 or trainer.precision == "16-mixed":
        raise ValueError("objective='separate' works in one process without float16 scaling; use 'summed'")


def step_for_each_term(module: LightningModule, weights: Mapping[str, float], term: Callable[[str], Tensor]) -> None:
    """Backward, clipping to 1 and a step for each term, in the order of the weights; then one of the learning rate.

    For modules without automatic optimization. term: the loss [B] of a name, computed with the weights of now.
    """
    wrapped = module.optimizers()
    for number, (name, weight) in enumerate(weights.items(), 1):
        loss = weight * term(name).mean()
        wrapped.optimizer.zero_grad()
        module.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        # Lightning counts the steps of the wrapped optimizer, and one iteration is one step.
        (wrapped if number == len(weights) else wrapped.optimizer).step()
        module.log(f"train/{name}_loss", loss.detach() / weight)
    module.lr_schedulers().step()
