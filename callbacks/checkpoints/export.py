"""The trained network as files for other programs, written when a training ends or is stopped."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor

from callbacks.checkpoints import printed_commands
from callbacks.checkpoints.chosen import best_checkpoint
from callbacks.checkpoints.reading import read_checkpoint
from fewstep.files.durable import replacing_folder
from fewstep.one_line import one_line


class Export(Callback):
    """Calls the module's `export(folder)` at the end of a training and after a stop that loses nothing.

    What is exported are the weights that a test would take: of the best checkpoint by a monitored metric, else the last
    ones, and of them the moving average where there is one. The training module itself keeps its weights.

    folder: RUN_DIR/export if not given. `written` is the folder once it is there. `python train.py export --run_dir
    RUN` does the same at any time.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self.written: str | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        require_export(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.fast_dev_run:
            try:
                self._write(trainer, pl_module)
            except ValueError as error:  # such as of an autoencoder that was never validated; its test goes on
                print(f"export  not written: {one_line(error, 300)}", file=sys.stderr)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """After a stop of all ranks together; what is wrong with the export then is one line on stderr."""
        if trainer.state.fn != "fit" or not getattr(exception, "together", False) or self.written:
            return
        try:
            self._write(trainer, pl_module)
        except Exception as error:  # the run is saved, and ends with the code of the stop
            print(f"export  not written: {one_line(error, 300)}", file=sys.stderr)
        if self.written and trainer.is_global_zero:
            print(f"export  {self.written}", file=sys.stderr)

    def _write(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        if any(isinstance(parameter, DTensor) for parameter in module.parameters()):
            words = ["train.py", "export", "--run_dir", str(trainer.default_root_dir), *printed_commands.also]
            print(f"export  the weights lie on several devices in parts; python {shlex.join(words)}", file=sys.stderr)
            return
        folder = self.folder or str(Path(trainer.default_root_dir, "export"))
        now = state_of(trainer, module)
        best = best_checkpoint(trainer)
        try:
            export_weights(read_checkpoint(best) if best else now, module, folder)
        finally:
            module.load_state_dict(now["state_dict"])
            module.on_load_checkpoint(now)
        self.written = folder


def state_of(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What a checkpoint would hold now of the module and its moving average."""
    weights = {name: weight.detach().clone() for name, weight in module.state_dict().items()}
    callbacks = {c.state_key: c.state_dict() for c in trainer.callbacks}  # type: ignore[attr-defined]
    state = {"state_dict": weights, "callbacks": callbacks}
    module.on_save_checkpoint(state)
    return state


def require_export(module: LightningModule) -> None:
    """ValueError in one line for a module that has nothing to write."""
    if not hasattr(module, "export"):
        raise ValueError(f"{type(module).__name__} has no export; switch it off with --callbacks.export null")


def export_weights(stored: Mapping[str, Any], module: LightningModule, folder: str) -> None:
    """Load the weights of a checkpoint, those of its moving average where it has one, and let the module write them.

    The folder is there as a whole, or as it was.
    """
    module.load_state_dict(averaged_weights(stored))
    module.on_load_checkpoint(dict(stored))
    with replacing_folder(Path(folder)) as partial:
        module.export(str(partial))


def averaged_weights(stored: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint with the moving average, of callbacks.EMA, in the place of those that it covers."""
    average = stored.get("callbacks", {}).get("EMA", {}).get("average", {})
    return {**stored["state_dict"], **average}
