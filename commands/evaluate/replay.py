"""The outputs of a test, kept batch by batch, so that a broken-off evaluation need not generate them again."""

import functools
import hashlib
import io
import json
import time
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from commands.evaluate.partial import Partial


def keep_outputs(module: LightningModule, partial: Partial, number: int) -> None:
    """Make `module.test_step` read the outputs of a batch from OUT/partial where they are, and else put them there.

    A batch is known by the keys of its samples. What `test_step` logs is kept with it and logged again. Only dicts of
    tensors with an `image` are kept, because only images take long to make; they are replayed as they were, to the bit.
    """
    generate = module.test_step

    @functools.wraps(generate)  # Lightning reads the signature
    def test_step(batch: Any, *arguments: Any, **named: Any) -> Any:
        if not isinstance(batch, dict) or not {"key", "weight"} <= batch.keys():
            return generate(batch, *arguments, **named)
        name = f"{number:03d}/{_identity(batch)}.pt"
        if (kept := _read(partial, name, batch["weight"])) is not None:
            for log in kept["logged"]:
                module.log(log["name"], log["value"], **log["options"])
            return kept["outputs"]
        start, logged = time.perf_counter(), []
        module.log = functools.partial(_recorded, type(module).log.__get__(module), logged)  # type: ignore[method-assign]
        try:
            outputs = generate(batch, *arguments, **named)
        finally:
            del module.log
        if not isinstance(outputs, dict) or "image" not in outputs or not _plain(outputs, logged):
            return outputs
        if outputs["image"].device.type == "cuda":
            torch.cuda.synchronize(outputs["image"].device)
        each = torch.full(batch["weight"].shape, (time.perf_counter() - start) / max(float(batch["weight"].sum()), 1.0))
        outputs = {"seconds": each} | outputs
        file = io.BytesIO()
        torch.save({"outputs": {k: v.detach().cpu() for k, v in outputs.items()}, "logged": logged}, file)
        partial.write(name, file.getvalue())
        return outputs

    module.test_step = test_step  # type: ignore[method-assign]


def _recorded(log: Any, logged: list[dict[str, Any]], name: str, value: Any, *arguments: Any, **options: Any) -> None:
    """`self.log`, which `self.log_dict` calls too."""
    log(name, value, *arguments, **options)
    value = value.detach().cpu() if isinstance(value, Tensor) else value
    logged.append({"name": name, "value": value, "options": options, "more": list(arguments)})


def _plain(outputs: dict[str, Any], logged: list[dict[str, Any]]) -> bool:
    """Whether all of it can be written and read again."""
    simple = (Tensor, float, int, str, bool, type(None))
    values = [log["value"] for log in logged] + [v for log in logged for v in log["options"].values()]
    tensors = all(isinstance(value, Tensor) for value in outputs.values())
    return tensors and all(isinstance(value, simple) for value in values) and not any(log["more"] for log in logged)


def _read(partial: Partial, name: str, like: Tensor) -> dict[str, Any] | None:
    """None where there is nothing, or something damaged."""
    try:
        kept = torch.load(partial.folder / name, map_location="cpu", weights_only=True)
        outputs = {key: value.to(like.device) for key, value in kept["outputs"].items()}
        return {"outputs": outputs, "logged": kept["logged"]}
    except Exception:  # torch raises many kinds; all mean that it has to be made again
        return None


def _identity(batch: dict[str, Any]) -> str:
    content = json.dumps([list(batch["key"]), batch["weight"].tolist()])
    return hashlib.sha256(content.encode()).hexdigest()[:32]
