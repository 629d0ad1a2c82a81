"""Weights & Biases without an account, a prompt or a network unless they are asked for."""

import shutil
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only


class OfflineFirstWandbLogger(WandbLogger):
    """Lightning's W&B logger that records below SAVE_DIR/wandb and never stops or delays a run for long.

    `offline` records files for `wandb sync`. `online` needs stored credentials and an answer within `init_timeout`
    seconds; without them it says so in one line and records offline. Any run can be resumed: its id is `run_id`.
    Checkpoints are not uploaded: they stay in the run directory.
    """

    def __init__(
        self,
        save_dir: str,
        run_id: str,
        project: str = "fewstep",
        mode: Literal["offline", "online"] = "offline",
        config: dict[str, Any] | None = None,
        init_timeout: float = 10.0,
    ) -> None:
        super().__init__(name=run_id, save_dir=save_dir, id=run_id, project=project)
        self.mode = mode
        self._config = config or {}
        self._init_timeout = init_timeout

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The wandb run; starting it is the first use."""
        if self._experiment is None:
            self._experiment = self._start()
            self._experiment.define_metric("trainer/global_step")
            self._experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
            self._experiment.define_metric("val/nll", summary="min")
        return self._experiment

    def _start(self) -> Any:
        import wandb

        if self.mode == "online":
            try:
                if not wandb.login(prompt=False, verify=False):
                    raise ConnectionError("no W&B credentials are stored; run `wandb login` once")
                return self._init("online")
            except Exception as error:  # logging must never stop a run, whatever the library raises
                print(f"W&B cannot be reached ({_first_line(error)}); recording offline instead.")
                wandb.teardown()
                for left_over in Path(self.save_dir or ".").glob(f"wandb/run-*-{self.version}"):
                    shutil.rmtree(left_over, ignore_errors=True)
                self.mode = "offline"
        return self._init("offline")

    def _init(self, mode: Literal["offline", "online"]) -> Any:
        import wandb

        quiet = wandb.Settings(silent=True, console="off", init_timeout=self._init_timeout)
        return wandb.init(
            project=self._project,
            name=self._name,
            id=self._id,
            dir=self.save_dir,
            config=self._config,
            mode=mode,
            resume="allow",
            settings=quiet,
        )

    @rank_zero_only
    def close(self, exit_code: int = 0) -> str | None:
        """Finish the run; returns the command that uploads it if it was recorded offline."""
        if self._experiment is None:
            return None
        folder = Path(self._experiment.settings.sync_dir)
        self._experiment.finish(exit_code=exit_code)
        self._experiment = None
        return f"wandb sync {folder}" if self.mode == "offline" else None


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0].split(". ")[0][:120]
