"""The trained network as files for other programs, written when it is tested."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer


class Export(Callback):
    """Calls the module's `export(folder)` during a test, hence with the averaged weights of the best checkpoint.

    folder: RUN_DIR/export if not given.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not hasattr(pl_module, "export"):
            raise ValueError(f"{type(pl_module).__name__} has no export; switch it off with --callbacks.export null")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Before on_test_end, where EMA takes the averaged weights out again.
        if trainer.is_global_zero:
            pl_module.export(self.folder or str(Path(trainer.default_root_dir, "export")))
