"""Whether a resumed run sees the data that its checkpoint was trained on."""

import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.checkpoints.data_manifest import data_manifests


class DataIdentity(Callback):
    """Keep the digest of each training folder's index.json in the checkpoint and refuse to go on with other data.

    A position in one data set means nothing in another. A folder that was moved or is reached by another address is
    the same data; one whose index.json cannot be read is not compared, which is said on stderr. To go on with other
    data all the same, switch this off: --callbacks.data_identity null.
    Errors: ValueError in one line, before the run directory is touched.
    """

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}  # name of the data -> sha256 of its index.json

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data = getattr(trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            try:
                found = data_manifests({"path": data.hparams.get("path")})
            except (OSError, ValueError) as error:  # a store that does not answer now need not end the run
                if trainer.is_global_zero:
                    print(f"data identity: {error}; the data are not compared", file=sys.stderr)
                found = []
            names = [manifest["name"] for manifest in found]
            names = [f"{name} {n}" if name in names[:n] else name for n, name in enumerate(names)]  # two of one name
            self._digests = dict(zip(names, (manifest["sha256"] for manifest in found), strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {"digests": self._digests}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        old, new = checkpoint["callbacks"].get(self.state_key, {}).get("digests", {}), self._digests
        if trainer.state.fn == "fit" and old and new and sorted(old.values()) != sorted(new.values()):
            raise ValueError(
                f"the checkpoint was trained on the data {_named(old)}, the config names {_named(new)}; give the run's "
                "own data, or go on with these by --callbacks.data_identity null"
            )
        self._digests = new or old  # the next resume is compared even if this one could not be


def _named(digests: dict[str, str]) -> str:
    return ", ".join(f"{name} ({digest[:8]})" for name, digest in list(digests.items())[:3])
