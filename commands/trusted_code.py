"""Whose code a config may name: classes of known packages and whatever is in the packages that the user trusts.

A class path, wherever it stands in a config, is imported and called; see docs/security.md for what follows from this.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jsonargparse import Namespace, set_parsing_settings

from callbacks.checkpoints import printed_commands

VARIABLE = "FEWSTEP_TRUST"  # packages, separated by commas
OWN = ("fewstep", "lightning_modules", "datamodules", "callbacks")
FOREIGN = ("torch", "torchvision", "torchmetrics", "diffusers", "transformers", "peft", "open_clip", "lightning")
FOREIGN += ("pytorch_lightning", "ray.train.lightning")
# Parts of them that start programs, compile, or run what a file or a hub holds.
WITHHELD = ("torch.hub", "torch.jit", "torch.package", "torch.ops", "torch.classes", "torch.utils.cpp_extension")
WITHHELD += ("torch.multiprocessing", "torch.distributed.elastic", "torch._inductor", "torch._dynamo")
WITHHELD += ("lightning.pytorch.loggers.wandb", "pytorch_lightning.loggers.wandb")  # runs git where its options say
WITHHELD += ("torchmetrics.multimodal", "torchmetrics.functional.multimodal")  # trusts any model called jinaai
# What a run is made of. An argument may take any value, and what is built for it must not start a program either.
KINDS = {
    "torch.nn.modules.module.Module",
    "torch.optim.optimizer.Optimizer",
    "torch.optim.lr_scheduler.LRScheduler",
    "lightning.pytorch.core.datamodule.LightningDataModule",
    "lightning.pytorch.callbacks.callback.Callback",
    "lightning.fabric.loggers.logger.Logger",
    "lightning.pytorch.profilers.profiler.Profiler",
    "lightning.pytorch.strategies.strategy.Strategy",
    "lightning.fabric.accelerators.accelerator.Accelerator",
    "lightning.pytorch.plugins.precision.precision.Precision",
    "lightning.pytorch.plugins.layer_sync.LayerSync",
    "lightning.fabric.plugins.io.checkpoint_io.CheckpointIO",
    "lightning.fabric.plugins.environments.cluster_environment.ClusterEnvironment",
    "diffusers.schedulers.scheduling_utils.SchedulerMixin",
    "transformers.configuration_utils.PreTrainedConfig",
}
_given: list[str] = []  # by --trust
_allowed: set[str] = set()  # so far, in this process


def take_trust(argv: Sequence[str]) -> list[str]:
    """argv without its `--trust PACKAGE`; from now on class paths are read with these packages and no others.

    Errors: ValueError for what is not the name of a package.
    """
    _given.clear()
    words, rest = iter(argv), []
    for word in words:
        flag, equals, value = word.partition("=")
        if flag == "--trust":
            _given.append(value if equals else next(words, ""))
        else:
            rest.append(word)
    printed_commands.also[:] = [word for package in _given for word in ("--trust", package)]
    enforce()
    return rest


def enforce() -> None:
    """Tell the parser, for this process, what may be imported: it checks names and where objects are defined."""
    trusted = _trusted()
    for package in trusted:
        if not all(part.isidentifier() for part in package.split(".")):
            raise ValueError(f"--trust {shlex.quote(package)}: give the name of a package as Python imports it")
    withdrawn = [package for package in _allowed if package not in trusted]
    _allowed.update(trusted)
    set_parsing_settings(
        import_path_denylist=["*", *withdrawn, *WITHHELD],
        import_path_allowlist=[*OWN, *FOREIGN, *trusted],
        validate_subclass_spec_in_any=True,
        instantiate_subclass_spec_in_any=True,  # check() comes before it
    )


def is_trusted(path: str) -> bool:
    """By the longest entry that the path begins with."""
    verdicts = dict.fromkeys((*OWN, *FOREIGN), True) | dict.fromkeys(WITHHELD, False) | dict.fromkeys(_trusted(), True)
    parts = path.split(".")
    starts = (".".join(parts[:number]) for number in range(len(parts), 0, -1))
    return next((verdicts[start] for start in starts if start in verdicts), False)


def resolve(path: str) -> Any:
    """The class or function at an import path. Errors: ValueError in one line before anything untrusted is imported."""
    if not is_trusted(path):
        raise ValueError(refusal(path))
    module, _, name = path.rpartition(".")
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError:  # of a class in a class, say
        module, _, outer = module.rpartition(".")
        home = getattr(importlib.import_module(module), outer)
    found = getattr(home, name)
    _require_trusted(found, path)
    return found


def imported(path: str) -> Any:
    """What is at an import path whose module is imported, or None: a checkpoint must not choose what gets imported."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def check(config: Any) -> None:
    """ValueError in one line where a parsed config leads to what resolve() refuses."""
    for key, value in _leaves(config):
        if key.endswith(".class_path") and isinstance(value, str) and "." in value:
            resolve(value)
        elif inspect.isclass(value) or inspect.isroutine(value):
            _require_trusted(value, key.removeprefix("."))


def refusal(path: str) -> str:
    """Why a path is refused, and the flag that allows it where it is the user's to allow."""
    if path.endswith((".loggers.WandbLogger", ".loggers.wandb.WandbLogger")):
        return f"{path!r} takes options that start programs; --wandb offline or online records a run"
    if _starts(path, WITHHELD):
        return f"{path!r} could run the code of a file; no config may name it"
    package = path.partition(".")[0]
    if package in {*sys.stdlib_module_names, "jsonargparse", "commands"}:
        return f"{path!r} is no part of a model; no config may name it"
    try:
        spec = importlib.util.find_spec(package)  # found, not imported
    except (ImportError, ValueError):
        spec = None
    if spec is not None and spec.origin is None:  # a folder, such as runs: not all that lies in it
        package = path.rpartition(".")[0]
    return f"{path!r} is of no trusted package; if you trust its code, add --trust {package}"


def _require_trusted(found: Any, path: str) -> None:
    home = getattr(found, "__module__", None) or ""
    if not is_trusted(home):
        defined = f"{home}.{getattr(found, '__qualname__', '')}"
        raise ValueError(f"{path!r} leads to another module: {refusal(defined)}")
    package = home.partition(".")[0]
    if _starts(home, _trusted()) or package not in (*OWN, *FOREIGN):
        return
    made = found
    if inspect.isfunction(found) and package in OWN:  # a network that one of our functions makes
        made = inspect.signature(found).return_annotation
    if not (inspect.isclass(made) and _is_kind(made)):
        what = "is not a network, callback, logger or other part that a run is made of"
        raise ValueError(f"{path!r} {what}; to allow all of it: --trust {package}")


def _is_kind(kind: type) -> bool:
    names = {f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__}
    same = {name.replace("pytorch_lightning.", "lightning.pytorch.", 1) for name in names}
    return dataclasses.is_dataclass(kind) or bool(same & KINDS)


def _starts(path: str, entries: Iterable[str]) -> bool:
    return any(f"{path}.".startswith(f"{entry}.") for entry in entries)


def _trusted() -> tuple[str, ...]:
    listed = os.environ.get(VARIABLE, "").split(",")
    return (*_given, *(package.strip() for package in listed if package.strip()))


def _leaves(value: Any, key: str = "", of: str | None = None) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of all that is no default; `of`: the class path whose init_args these are."""
    value = vars(value) if isinstance(value, Namespace) else value
    if isinstance(value, Mapping):
        for name, entry in value.items():
            if not (of and callable(entry) and _is_default(resolve(of), name, entry)):
                path = value.get("class_path") if name == "init_args" else None
                yield from _leaves(entry, f"{key}.{name}", path if isinstance(path, str) and "." in path else None)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _leaves(entry, key)
    else:
        yield key, value


def _is_default(kind: Any, name: str, value: Any) -> bool:
    functions = [vars(base).get("__init__") for base in kind.__mro__] if inspect.isclass(kind) else [kind]
    known = [inspect.signature(f).parameters.get(name) for f in functions if inspect.isfunction(f)]
    return any(parameter is not None and parameter.default is value for parameter in known)
