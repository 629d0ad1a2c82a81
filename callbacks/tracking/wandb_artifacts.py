"""What a run was made of and what it made, as W&B artifacts: data manifest, config and checkpoints."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.checkpoints.data_manifest import data_manifests
from callbacks.checkpoints.reading import read_checkpoint
from callbacks.tracking.wandb_logger import OfflineFirstWandbLogger
from fewstep.files.secrets import without_secrets

KEPT = {"best", "last", "latest"}  # W&B itself gives the newest version the last of these


class WandbArtifacts(Callback):
    """Logs to the W&B logger, if there is one: the data manifest and config at the start, checkpoints at the end.

    Args:
        every_n_validations: upload checkpoints after so many validations as well, while online; None for never.
        checkpoints: False for the manifest and the config alone.

    * `data-NAME` (type dataset): digest, counts and licence from index.json, never the data. The same data give the
      same version, so that the graph joins the runs that used it.
    * `config-ID` (type config): the resolved config without what looks like a password.
    * `checkpoint-ID` (type model): checkpoints/best.ckpt and last.ckpt with the aliases `best` and `last`; metadata:
      step, score and the sha256 of manifest and config. Online, versions that lost their alias are deleted.
    Hashing and uploading happen in the background, from hard links below RUN/wandb/checkpoints (no copies are made), so
    that a file replaced meanwhile stays whole. A failure is said once and the run goes on.
    """

    def __init__(self, every_n_validations: int | None = None, checkpoints: bool = True) -> None:
        if every_n_validations is not None and every_n_validations < 1:
            raise ValueError(f"every_n_validations={every_n_validations}: give at least 1 or leave it out")
        self.every_n_validations, self.checkpoints = every_n_validations, checkpoints
        self._validations = 0
        self._due = False
        self._origin: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logger = _logger(trainer)
        if logger is None:
            return
        self._origin = {}
        config, data = Path(logger.save_dir or ".", "config.yaml"), trainer.datamodule
        logger.in_background("data manifest", lambda run: self._log_data(run, data))
        if config.is_file():
            logger.in_background("config", lambda run: self._log_config(run, config.read_text()))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.every_n_validations and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validations += 1
            self._due = self._validations % self.every_n_validations == 0

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        logger = _logger(trainer) if self._due else None
        if logger is not None and logger.mode == "online":  # the checkpoints of that validation are written by now
            self._log_checkpoints(trainer, logger)
        self._due = False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (logger := _logger(trainer)) is not None:
            self._log_checkpoints(trainer, logger)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        logger = _logger(trainer)
        if logger is not None and logger.mode == "online":
            self._log_checkpoints(trainer, logger)

    def _log_data(self, run: Any, data: LightningDataModule | None) -> None:
        import wandb

        manifests = data_manifests(data.hparams if data is not None else {})
        self._origin["data"] = {m["name"]: m["sha256"] for m in manifests}
        run.config.update({"data_manifest": self._origin["data"]}, allow_val_change=True)
        for manifest in manifests:
            artifact = wandb.Artifact(f"data-{_clean(manifest['name'])}", type="dataset", metadata=manifest)
            with artifact.new_file("manifest.json") as file:
                json.dump(manifest, file, indent=1, sort_keys=True)
            if run.offline:
                run.log_artifact(artifact)  # an input can only be declared while connected
            else:
                run.use_artifact(artifact)

    def _log_config(self, run: Any, text: str) -> None:
        import wandb

        text = yaml.safe_dump(without_secrets(yaml.safe_load(text)), sort_keys=False)
        self._origin["config_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        artifact = wandb.Artifact(f"config-{run.id}", type="config")
        with artifact.new_file("config.yaml") as file:
            file.write(text)
        run.log_artifact(artifact)

    def _log_checkpoints(self, trainer: Trainer, logger: OfflineFirstWandbLogger) -> None:
        if not self.checkpoints or trainer.fast_dev_run or not trainer.is_global_zero:
            return
        savers = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.best_model_path]
        scores = [
            (s.monitor, float(s.best_model_score)) for s in savers if s.monitor and s.best_model_score is not None
        ]
        files = {"best": savers[0].best_model_path if savers else "", "last": _last(trainer)}
        for alias, file in files.items():
            link = logger.attempt("checkpoint", lambda f=file, a=alias: _link(Path(f), a, logger)) if file else None
            if link is not None:
                notes = dict(scores[:1]) if alias == "best" else {}
                logger.in_background("checkpoint", lambda run, a=alias, p=link, n=notes: self._log_one(run, a, p, n))

    def _log_one(self, run: Any, alias: str, file: Path, scores: Mapping[str, float]) -> None:
        import wandb

        stored = read_checkpoint(file, lazily=True)
        metadata = {"step": stored.get("global_step"), "epoch": stored.get("epoch"), **scores, **self._origin}
        artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model", metadata=metadata)
        artifact.add_file(str(file), name=f"{alias}.ckpt", policy="immutable", skip_cache=True)
        logged = run.log_artifact(artifact, aliases=[alias])
        if not run.offline:
            logged.wait()
            file.unlink(missing_ok=True)
            delete_old_versions(wandb.Api(), f"{run.entity}/{run.project}/checkpoint-{run.id}")


def delete_old_versions(api: Any, collection: str) -> int:
    """Delete the versions of a checkpoint artifact that are neither best nor last; how many. api: wandb.Api()"""
    old = [version for version in api.artifacts("model", collection) if not KEPT & set(version.aliases)]
    for version in old:
        version.delete()
    return len(old)


def _logger(trainer: Trainer) -> OfflineFirstWandbLogger | None:
    return next((logger for logger in trainer.loggers if isinstance(logger, OfflineFirstWandbLogger)), None)


def _last(trainer: Trainer) -> str:
    last = Path(trainer.default_root_dir, "checkpoints", "last.ckpt")
    return str(last) if last.is_file() else ""


def _link(file: Path, alias: str, logger: OfflineFirstWandbLogger) -> Path | None:
    """A second name for a checkpoint, which stays when `file` is replaced; None if this very file has one already."""
    folder = Path(logger.save_dir or ".", "wandb", "checkpoints").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    status = file.stat()
    link = folder / f"{alias}-{status.st_ino}-{status.st_mtime_ns}.ckpt"
    if link.exists():
        return None
    os.link(file, link)
    return link


def _clean(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[:100]
