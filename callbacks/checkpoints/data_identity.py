"""Whether a resumed run sees the data that its checkpoint was trained on."""

import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.checkpoints.data_manifest import data_identities


class DataIdentity(Callback):
    """Keep the digest of each part of the training data in the checkpoint and refuse to go on with other data.

    A position in one data set means nothing in another. A part is a folder with an index.json, which tells it from
    others wherever it lies, or all shards without one together, by their names and sizes. What cannot be compared is
    said on stderr. To go on with other data all the same, switch this off: --callbacks.data_identity null.
    Errors: ValueError in one line, before the run directory is touched.
    """

    def __init__(self) -> None:
        self._state: dict[str, Any] = {"digests": {}}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data = getattr(trainer, "datamodule", None)
        if stage != "fit" or data is None:
            return
        try:
            parts, unknown = data_identities(data.hparams.get("path"))
        except (OSError, ValueError) as error:  # a store that does not answer now need not end the run
            parts, unknown = [], [str(error)]
        if unknown and trainer.is_global_zero:
            print(f"data identity: {'; '.join(unknown)}; the data are not compared", file=sys.stderr)
        self._state = {"digests": _by_name(parts), "parts": parts}

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        old = checkpoint["callbacks"].get(self.state_key, {"digests": {}})
        if trainer.state.fn == "fit" and _differ(old, self._state):
            raise ValueError(
                f"the checkpoint was trained on the data {_named(old)}, the config names {_named(self._state)}; give "
                "the run's own data, or go on with these by --callbacks.data_identity null"
            )
        if not self._state.get("parts"):
            self._state = old  # the next resume is compared even if this one could not be


def _by_name(parts: list[dict[str, str]]) -> dict[str, str]:
    """What older checkpoints hold: folders with an index.json, the last of each name."""
    return {part["name"]: part["sha256"] for part in parts if part["kind"] == "index"}


def _differ(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether two states tell of other data; an older one has no parts, and of loose shards it knew nothing."""
    if "parts" in old:
        before, now = (sorted(part["sha256"] for part in state.get("parts", [])) for state in (old, new))
        return bool(before and now) and before != now
    before = sorted(old["digests"].values())
    folders = sorted(part["sha256"] for part in new.get("parts", []) if part["kind"] == "index")
    known = [folders, sorted(new["digests"].values())]  # of two folders of one name both were kept, or the last
    return bool(before and folders) and before not in known


def _named(state: dict[str, Any]) -> str:
    parts = [(part["name"], part["sha256"]) for part in state.get("parts", [])] or [*state["digests"].items()]
    shown = [f"{name if name.isprintable() else ascii(name)} ({digest[:8]})" for name, digest in parts[:3]]
    return ", ".join(shown) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")
