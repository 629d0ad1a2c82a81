"""Models whose outputs are kept batch by batch, so that a broken-off evaluation need not generate them again."""

import functools
import hashlib
import io
import json
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from commands.evaluate.partial import RunFiles

Outputs = dict[str, Any]


def keeping_outputs(kind: type[LightningModule]) -> type[LightningModule]:
    """The same class, but `test_step` reads the outputs of a batch from `self.kept`, and else puts them there.

    A batch is known by the keys of its samples. What `test_step` logs is kept with it and logged again. Only dicts of
    tensors with an `image` are kept, because only images take long to make; they are replayed as they were, to the bit.
    """

    class Keeping(kind):
        kept: RunFiles | None = None
        _logged: list[dict[str, Any]] | None = None  # while a batch is made that may be kept

        @functools.wraps(kind.test_step)  # Lightning reads the signature
        def test_step(self, batch: Any, *arguments: Any, **named: Any) -> Any:
            if self.kept is None or not isinstance(batch, dict) or not {"key", "weight"} <= batch.keys():
                return super().test_step(batch, *arguments, **named)
            name = f"{_identity(batch)}.pt"
            if (found := _read(self.kept, name, batch["weight"])) is not None:
                for log in found["logged"]:
                    self.log(log["name"], log["value"], **log["options"])
                return found["outputs"]
            start, self._logged = time.perf_counter(), []
            try:
                outputs = super().test_step(batch, *arguments, **named)
            finally:
                logged, self._logged = self._logged, None
            if not isinstance(outputs, dict) or "image" not in outputs or not _plain(outputs, logged):
                return outputs
            outputs = {"seconds": _seconds_each(start, outputs["image"], batch["weight"])} | outputs
            file = io.BytesIO()
            torch.save({"outputs": {k: v.detach().cpu() for k, v in outputs.items()}, "logged": logged}, file)
            self.kept.write(name, file.getvalue())
            return outputs

        def log(self, name: str, value: Any, *arguments: Any, **options: Any) -> None:
            """Also for `log_dict`, which calls it."""
            super().log(name, value, *arguments, **options)
            if self._logged is not None:
                value = value.detach().cpu() if isinstance(value, Tensor) else value
                self._logged.append({"name": name, "value": value, "options": options, "more": list(arguments)})

    Keeping.__module__, Keeping.__qualname__, Keeping.__name__ = kind.__module__, kind.__qualname__, kind.__name__
    return Keeping


def _seconds_each(start: float, image: Tensor, weight: Tensor) -> Tensor:
    """[B], since `start`, over the samples that count."""
    if image.device.type == "cuda":
        torch.cuda.synchronize(image.device)
    return torch.full(weight.shape, (time.perf_counter() - start) / max(float(weight.sum()), 1.0))


def _plain(outputs: Outputs, logged: list[dict[str, Any]]) -> bool:
    """Whether all of it can be written and read again."""
    simple = (Tensor, float, int, str, bool, type(None))
    values = [log["value"] for log in logged] + [v for log in logged for v in log["options"].values()]
    tensors = all(isinstance(value, Tensor) for value in outputs.values())
    return tensors and all(isinstance(value, simple) for value in values) and not any(log["more"] for log in logged)


def _read(kept: RunFiles, name: str, like: Tensor) -> dict[str, Any] | None:
    """None where there is nothing, or something damaged."""
    try:
        found = torch.load(io.BytesIO(kept.read(name)), map_location="cpu", weights_only=True)
        outputs = {key: value.to(like.device) for key, value in found["outputs"].items()}
        return {"outputs": outputs, "logged": found["logged"]}
    except Exception:  # torch raises many kinds; all mean that it has to be made again
        return None


def _identity(batch: dict[str, Any]) -> str:
    content = json.dumps([list(batch["key"]), batch["weight"].tolist()])
    return hashlib.sha256(content.encode()).hexdigest()[:32]
