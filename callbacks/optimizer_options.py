"""Let the config, not the checkpoint, decide learning rates and other options of a resumed run."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

Options = list[list[dict[str, Any]]]  # optimizer, parameter group, name -> value


class OptimizerOptions(Callback):
    """Apply options that changed since the checkpoint; restoring an optimizer's state would bring the old ones back.

    An option whose configured value is the same as when the checkpoint was written is left alone, and with it whatever
    a schedule has made of it. A changed learning rate is scaled by new / old, so that a schedule keeps its shape.
    """

    def __init__(self) -> None:
        self._configured: Options = []
        self._stored: Options = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The optimizers exist by now and have not been restored yet.
        self._configured = [
            [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        triples = zip(trainer.optimizers, self._stored, self._configured, strict=False)
        for optimizer, stored, configured in triples:
            for group, old, new in zip(optimizer.param_groups, stored, configured, strict=True):
                _apply(group, old, new)
        for entry in trainer.lr_scheduler_configs:
            if hasattr(entry.scheduler, "base_lrs"):
                entry.scheduler.base_lrs = [g["initial_lr"] for g in entry.scheduler.optimizer.param_groups]

    def state_dict(self) -> dict[str, Options]:
        return {"configured": self._configured}

    def load_state_dict(self, state_dict: dict[str, Options]) -> None:
        self._stored = state_dict["configured"]


def _apply(group: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> None:
    for name in new.keys() & old.keys():
        if new[name] == old[name]:
            continue
        scheduled = name == "lr" and old[name] != 0
        group[name] = group[name] * new[name] / old[name] if scheduled else new[name]
