"""Trackio: a dashboard on this machine, without an account and without a network."""

import atexit
import importlib.util
import io
import shlex
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from callbacks.tracking.attempts import Attempts
from callbacks.tracking.finite import finite_columns
from callbacks.tracking.run_ids import store_run_id, stored_run_id
from fewstep.files.secrets import without_secrets


def require_trackio() -> None:
    """ValueError in one line where the package is not installed."""
    if importlib.util.find_spec("trackio") is None:
        raise ValueError("--trackio local needs the package trackio; pip install 'fewstep[trackio]'")


class TrackioLogger(Logger):
    """Records every logged value in Trackio's folder of this machine; `trackio show` opens the dashboard of all runs.

    Args:
        save_dir: the run directory. name: what its id, which is the run's name there, too, begins with. The id stands
            in SAVE_DIR/trackio/run_id.txt, so that a resumed run goes on under it, in whatever folder by then.
        project: one dashboard; its runs lie in $TRACKIO_DIR, by default in the cache of Hugging Face.
        config: shown beside the run, without what looks like a password.

    Nothing is sent, whatever TRACKIO_SPACE_ID and TRACKIO_SERVER_URL say: `trackio sync` does that when you ask for
    it. What fails is said once and the run goes on. Errors: ValueError where Trackio is not installed.
    """

    def __init__(
        self, save_dir: str, name: str, project: str = "fewstep", config: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        require_trackio()
        self._save_dir, self._name, self._project = save_dir, name, project
        self._config = without_secrets(config or {})
        self._experiment: Any = None
        self._step = 0
        self.attempt = Attempts("Trackio")

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str | None:
        """The run's id, once it has started."""
        return getattr(self._experiment, "id", None)

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The Trackio run; starting it is the first use. One that records nothing if it could not be started."""
        if self._experiment is None:
            self._experiment = self.attempt("start", self._start) or _DummyExperiment()
        return self._experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's whole config is recorded with its first values."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log values at a step, the horizontal axis of every chart; without one, at the last that was logged."""
        self._step = self._step if step is None else step
        run = self.experiment
        self.attempt("logging", lambda: run.log(dict(metrics), step=self._step))

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        """images: files; several are logged under key/0, key/1, ..."""

        def log() -> None:
            import trackio

            keys = [key] if len(images) == 1 else [f"{key}/{i}" for i in range(len(images))]
            self.log_metrics({k: trackio.Image(image) for k, image in zip(keys, images, strict=True)}, step)

        self.attempt("image", log)

    @rank_zero_only
    def log_histograms(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """values: log key -> [N]; what is not finite is left out."""

        def log() -> None:
            import trackio

            columns = finite_columns(values)
            self.log_metrics({key: trackio.Histogram(column) for key, column in columns.items()}, step)

        self.attempt("histogram", log)

    @rank_zero_only
    def log_sample_table(self, key: str, columns: list[str], rows: Sequence[Sequence[Any]], step: int | None) -> None:
        """A table; entries of type bytes are PNG pictures."""

        def log() -> None:
            import trackio

            def cell(value: Any) -> Any:
                return trackio.Image(Image.open(io.BytesIO(value))) if isinstance(value, bytes) else value

            cells = [[cell(value) for value in row] for row in rows]
            self.log_metrics({key: trackio.Table(columns=columns, data=cells)}, step)

        self.attempt("sample table", log)

    def _start(self) -> Any:
        from trackio.run import Run

        class LocalRun(Run):  # `trackio.init` would follow the environment to a server
            def _get_username(self) -> None:
                """Trackio asks the hub whose token is stored on this machine."""

        run_id = stored_run_id(self._save_dir, self._name, "trackio")
        # The id is the name, too: under another name, as of a moved folder, the dashboard shows another run.
        run = LocalRun(
            url=None, project=self._project, client=None, name=run_id, run_id=run_id, config=dict(self._config)
        )
        self.attempt("run id", lambda: store_run_id(self._save_dir, run_id, "trackio"))
        atexit.register(self.close)
        return run

    @rank_zero_only
    def close(self, exit_code: int = 0) -> str | None:
        """Write what is not yet written; the command that shows the dashboard, or None if nothing was recorded."""
        run, self._experiment = self._experiment, None
        atexit.unregister(self.close)
        if run is None or isinstance(run, _DummyExperiment):
            return None
        with redirect_stdout(io.StringIO()):  # "Uploading logs to Trackio", which it does not
            self.attempt("finishing", run.finish)
        return f"trackio show --project {shlex.quote(self._project)}"
