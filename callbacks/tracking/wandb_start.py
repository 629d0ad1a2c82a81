"""The start of a W&B run: online where that works soon, else offline."""

import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple

from callbacks.tracking.attempts import first_line
from callbacks.tracking.wandb_connection import unreachable


class RunStart(NamedTuple):
    """What a run is started with; the timeouts are in seconds."""

    folder: Path  # receives wandb/
    run_id: str
    name: str | None
    project: str | None
    config: dict[str, Any]
    init_timeout: float
    finish_timeout: float

    def init(self, mode: Literal["offline", "online"]) -> Any:
        """The wandb run, a resumed one if the id is known; raises what wandb raises."""
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=self.init_timeout,
            finish_timeout=self.finish_timeout,
            finish_timeout_raises=True,
        )
        return wandb.init(
            project=self.project,
            name=self.name,
            id=self.run_id,
            dir=str(self.folder),
            config=self.config,
            mode=mode,
            resume="allow",
            settings=settings,
        )


def connect(start: RunStart, probe_timeout: float) -> Any:
    """A run that uploads, or None after one line that says why not: no server, no credentials, no answer in time.

    The process can then record offline, and nothing of the attempt is left behind.
    """
    import wandb

    before = _online_parts(start)
    try:
        if reason := unreachable(wandb.setup().settings.base_url, probe_timeout):
            raise ConnectionError(reason)
        if not wandb.login(prompt=False, verify=False):
            raise ConnectionError("no W&B credentials are stored; run `wandb login` once")
        return start.init("online")
    except Exception as error:
        print(f"W&B cannot be reached ({first_line(error)}); recording offline instead.", flush=True)
        wandb.teardown()
        for left_over in _online_parts(start) - before:
            shutil.rmtree(left_over, ignore_errors=True)
        return None


def _online_parts(start: RunStart) -> set[Path]:
    return set(start.folder.glob(f"wandb/run-*-{start.run_id}"))
