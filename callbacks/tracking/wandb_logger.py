"""Weights & Biases without an account, a prompt or a network unless they are asked for."""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from callbacks.metrics.catalogue import goal
from callbacks.tracking.attempts import Attempts
from callbacks.tracking.run_ids import store_run_id, stored_run_id
from callbacks.tracking.wandb_connection import refuse_full_disk, sync_command, unreachable, within
from callbacks.tracking.wandb_media import as_pages, histograms, sample_table
from callbacks.tracking.wandb_start import RunStart, connect
from fewstep.files.secrets import without_secrets

STEP = "trainer/global_step"
GRACE = 10.0  # seconds beyond finish_timeout, for a recorder that does not keep to it


class OfflineFirstWandbLogger(WandbLogger):
    """Lightning's W&B logger that records below SAVE_DIR/wandb and never stops or delays a run for long.

    Args:
        save_dir: the run directory. name: how the run is called; its id stands in SAVE_DIR/wandb/run_id.txt.
        mode: `offline` records files for `wandb sync`. `online` needs stored credentials and a server that answers
            within `probe_timeout` and starts the run within `init_timeout`; else one line says so and it is offline.
        config: shown on the server, without what looks like a password.
        finish_timeout: seconds to wait for uploads when the run is over and the server still answers.

    Whatever fails later is said once and the run goes on. The summary keeps the best value of metrics with a known
    goal (callbacks.metrics.catalogue) beside the last one. Checkpoints are uploaded by `WandbArtifacts`, if at all.
    """

    def __init__(
        self,
        save_dir: str,
        name: str,
        project: str = "fewstep",
        mode: Literal["offline", "online"] = "offline",
        config: dict[str, Any] | None = None,
        init_timeout: float = 10.0,
        probe_timeout: float = 3.0,
        finish_timeout: float = 60.0,
    ) -> None:
        super().__init__(name=name, save_dir=save_dir, id=name, project=project)
        self.mode = mode
        self._config = without_secrets(config or {})
        self._init_timeout, self._probe_timeout, self._finish_timeout = init_timeout, probe_timeout, finish_timeout
        self._known_keys: set[str] = set()
        self.attempt = Attempts("W&B")
        self._jobs: list[threading.Thread] = []
        self._looked_at_disk = 0.0
        self._own_data_dir = self._records = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The wandb run; starting it is the first use. One that records nothing if it could not be started."""
        if self._experiment is None:
            run = self.attempt("start", self._start)
            self._records = run is not None
            if not self._records:
                self._leave_data_dir()
            self._experiment = run if self._records else _DummyExperiment()
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values at a step, the horizontal axis of every chart."""
        run = self.experiment
        for key in metrics.keys() - self._known_keys:
            self._known_keys.add(key)
            if better := goal(key):
                options = {"step_metric": STEP, "step_sync": True, "summary": f"{better},last"}
                self.attempt("metric definition", lambda k=key, o=options: run.define_metric(k, **o))
        self.attempt("logging", lambda: super(OfflineFirstWandbLogger, self).log_metrics(metrics, step))
        if time.monotonic() - self._looked_at_disk > 10:
            self._check_disk()

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self.attempt("image", lambda: super(OfflineFirstWandbLogger, self).log_image(key, images, step, **kwargs))

    @rank_zero_only
    def log_histograms(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """values: log key -> [N]; what is not finite is left out."""
        self.attempt("histogram", lambda: self.log_metrics(histograms(values), step))

    @rank_zero_only
    def log_sample_table(self, key: str, columns: list[str], rows: Sequence[Sequence[Any]], step: int | None) -> None:
        """A table; entries of type bytes are PNG pictures."""

        def log() -> None:
            with tempfile.TemporaryDirectory() as folder:  # wandb copies the files when they are logged
                self.log_metrics({key: sample_table(columns, rows, folder)}, step)

        self.attempt("sample table", log)

    @rank_zero_only
    def log_pages(self, pages: Mapping[str, str], step: int | None = None) -> None:
        """pages: log key -> HTML, such as a drawing of SVG."""
        self.attempt("page", lambda: self.log_metrics(as_pages(pages), step))

    @rank_zero_only
    def in_background(self, what: str, action: Callable[[Any], Any]) -> None:
        """Call action(run) in a thread that never keeps the run from ending; `close` waits for it, but not for long."""
        run, before = self.experiment, self._jobs[-1:]
        if not self._records:
            return

        def work() -> None:
            for job in before:  # one after the other
                job.join()
            self.attempt(what, lambda: action(run))

        self._jobs.append(threading.Thread(target=work, daemon=True))
        self._jobs[-1].start()

    def _start(self) -> Any:
        if "WANDB_DATA_DIR" not in os.environ:  # what waits for its upload lies beside the record, not in the home
            os.environ["WANDB_DATA_DIR"] = str(Path(self.save_dir or ".", "wandb", "data").absolute())
            self._own_data_dir = True
        self._id = stored_run_id(self.save_dir or ".", self._name or "run")
        start = RunStart(
            folder=Path(self.save_dir or "."),
            run_id=self._id,
            name=self._name,
            project=self._project,
            config=self._config,
            init_timeout=self._init_timeout,
            finish_timeout=self._finish_timeout,
        )
        run = connect(start, self._probe_timeout) if self.mode == "online" else None
        self.mode = "offline" if run is None else "online"
        run = run or start.init("offline")
        self._id = run.id  # that of the agent, in a sweep
        self.attempt("run id", lambda: store_run_id(self.save_dir or ".", run.id))
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return run

    def _check_disk(self) -> None:
        self._looked_at_disk = time.monotonic()
        folder = Path(self.save_dir or ".", "wandb")
        self.attempt("recording", lambda: refuse_full_disk(folder if folder.is_dir() else folder.parent))

    def _leave_data_dir(self) -> None:
        if self._own_data_dir:
            os.environ.pop("WANDB_DATA_DIR", None)
            self._own_data_dir = False

    @rank_zero_only
    def close(self, exit_code: int = 0) -> str | None:
        """Finish the run within `finish_timeout` and a little; the command that uploads what is not yet uploaded."""
        if (run := self._experiment) is None or not self._records:
            return None
        answers = self.mode == "offline" or not unreachable(run.settings.base_url, self._probe_timeout)
        patience = self._finish_timeout if answers else 0.0  # a server that is gone is not waited for
        deadline = time.monotonic() + patience
        for job in self._jobs:
            job.join(max(0.0, deadline - time.monotonic()))
        self._check_disk()
        done = within(patience + GRACE, lambda: self.attempt("finishing", lambda: _finish(run, exit_code)))
        if not done:  # else wandb would try, and wait, again when the interpreter ends
            within(GRACE, lambda: self.attempt("finishing", _teardown))
        self._experiment = None
        self._leave_data_dir()
        lost = self.mode == "online" and not done
        if lost:
            print("W&B: not everything was uploaded.")
        return sync_command(self.save_dir or ".", run.id, online=lost) if lost or self.mode == "offline" else None


def _finish(run: Any, exit_code: int) -> bool:
    run.finish(exit_code=exit_code)
    return True


def _teardown() -> None:
    import wandb

    wandb.teardown()
