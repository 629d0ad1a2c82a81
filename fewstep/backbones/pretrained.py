"""Networks of diffusers and transformers: built from a config, or loaded whole and frozen, or refused in one line."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from fewstep.backbones.foreign_code import no_foreign_code
from fewstep.files.hub import missing
from fewstep.one_line import one_line


def diffusers_network(name: str, config: dict[str, Any]) -> nn.Module:
    """An untrained network of diffusers, such as AutoencoderKL or UNet2DConditionModel.

    config: what its config.json would hold; the class's own default stands for what is absent. ValueError in one line
    for an unknown class or entry. (Class paths into diffusers work for few of its classes: their type hints are wrong.)
    """
    import inspect

    import diffusers

    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin)):
        raise ValueError(f"diffusers has no network {name!r}; choose UNet2DConditionModel, AutoencoderKL or the like")
    known = set(inspect.signature(kind.__init__).parameters)
    if unknown := sorted(set(config) - known):
        raise ValueError(f"{name} has no config entry {unknown[0]!r}; see its page in diffusers' documentation")
    try:
        return kind.from_config(config)
    except (ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        reason = one_line(error, 200)
        raise ValueError(f"{name} cannot be built from this config: {reason}") from None


def pretrained_unet(source: str, sample_size: int | list[int] | None = None) -> nn.Module:
    """The UNet2DConditionModel of a pipeline (folder or hub id) or of its own folder, to train from these weights on.

    sample_size: of its latents from now on, one number or [height, width]; None leaves that of its config.
    """
    import diffusers

    kind = diffusers.UNet2DConditionModel
    unet = frozen_network(kind, source, "unet", "diffusion_pytorch_model.safetensors")
    if sample_size is not None:
        unet.register_to_config(sample_size=sample_size)
    return unet.train().requires_grad_(True)


@contextmanager
def reading(source: str | Path) -> Iterator[None]:
    """Reading from `source`: none of its code, no log lines that repeat its errors, no bars but for downloads."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    libraries = (of_diffusers, of_transformers)
    levels = [library.get_verbosity() for library in libraries]
    bars = [library for library in libraries if library.is_progress_bar_enabled() and Path(source).is_dir()]
    for library in libraries:
        library.set_verbosity(logging.CRITICAL)
    for library in bars:
        library.disable_progress_bar()
    try:
        with no_foreign_code():
            yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        for library in bars:
            library.enable_progress_bar()


def from_pretrained(kind: Any, source: str | Path, filename: str, **options: Any) -> Any:
    try:
        with reading(source):
            return kind.from_pretrained(str(source), **options)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(missing(source, filename, error)) from None


def own_or_part(source: str | Path, part: str, filename: str = "config.json") -> dict[str, str]:
    """Options of from_pretrained: a local folder that holds `filename` itself, or else the part of a pipeline."""
    return {} if Path(source, filename).is_file() else {"subfolder": part}


def scheduler_config(pipeline: str | Path) -> dict[str, Any]:
    """The config of a pipeline's scheduler (folder or hub id), of whatever class. ValueError in one line."""
    from diffusers import DDIMScheduler

    try:
        config: dict[str, Any] = DDIMScheduler.load_config(str(pipeline), subfolder="scheduler")
    except (OSError, ValueError) as error:
        raise ValueError(missing(pipeline, "scheduler/scheduler_config.json", error)) from None
    return config


def network_config(source: str | Path, part: str) -> dict[str, Any]:
    """config.json of a network of diffusers in its own folder, or in that part of a pipeline (folder or hub id)."""
    import diffusers

    try:
        return dict(diffusers.AutoencoderKL.load_config(str(source), **own_or_part(source, part)))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(missing(source, f"{part}/config.json", error)) from None


def frozen_network(
    kind: Any,
    source: str | Path,
    part: str,
    filename: str,
    dtype: torch.dtype = torch.float32,
    alone: bool = False,
) -> Any:
    """A whole network from its own local folder, or from the part of a pipeline in a folder or on a hub.

    alone: a source on a hub is the network itself, too; `part` only says what it is. Frozen, eval mode, on the CPU.
    ValueError in one line if a weight is lacking.
    """
    asked = {"torch_dtype" if kind.__module__.startswith("diffusers") else "dtype": dtype}
    model, report = from_pretrained(
        kind,
        source,
        filename if alone else f"{part}/{filename}",
        use_safetensors=True,
        output_loading_info=True,
        **({} if alone else own_or_part(source, part)),
        **asked,
    )
    if lacking := sorted(report["missing_keys"]):  # the libraries would only print that they are random
        raise ValueError(f"{source} lacks {lacking[0]} ({len(lacking)} entries lacking); is it a whole {part}?")
    check_weights(model, source, part)
    return model.eval().requires_grad_(False)


def check_weights(model: nn.Module, source: str | Path, part: str) -> None:
    """ValueError in one line for weights that are NaN, infinite, or whole numbers in a local file."""
    weights = model.state_dict()
    for name, weight in weights.items():
        if weight.is_floating_point() and not weight.isfinite().all():
            raise ValueError(f"{source} holds NaN or infinity in {name} of its {part}; is the download complete?")
    for file in sorted({*Path(source).glob("*.safetensors"), *Path(source, part).glob("*.safetensors")}):
        with safe_open(file, framework="pt") as stored:
            for name in weights.keys() & stored.keys():
                kind = stored.get_slice(name).get_dtype()
                if weights[name].is_floating_point() and kind.startswith(("I", "U", "B")) and kind != "BF16":
                    raise ValueError(f"{file} holds {name} in whole numbers ({kind}); they would be rounded weights")


def load_autoencoder(source: str | Path) -> Any:
    """AutoencoderKL, AutoencoderTiny, ... from its folder, a pipeline's folder or a pipeline's hub id.

    Frozen, eval mode, float32 on the CPU.
    """
    import diffusers

    name = str(network_config(source, "vae").get("_class_name"))
    if not name.startswith("Autoencoder") or not hasattr(diffusers, name):
        raise ValueError(f"{source} holds a {name}, not an autoencoder of diffusers; name the folder of one")
    return frozen_network(getattr(diffusers, name), source, "vae", "diffusion_pytorch_model.safetensors")


def load_dinov2(source: str | Path) -> tuple[Any, int]:
    """(Dinov2Model, number of features) from a `save_pretrained` folder or hub id; frozen, float32 on the CPU."""
    from transformers import Dinov2Model

    model, report = from_pretrained(
        Dinov2Model, source, "model.safetensors", dtype=torch.float32, output_loading_info=True
    )
    if lacking := sorted(report["missing_keys"]):  # transformers would only print that they are random
        raise ValueError(f"{source} lacks {lacking[0]} ({len(lacking)} entries lacking); is it a whole Dinov2Model?")
    return model.eval().requires_grad_(False), model.config.hidden_size


def copied_to(network: Any, dtype: torch.dtype) -> Any:
    """A copy on the CPU with its floating-point weights in this dtype; `.to(dtype)` of diffusers would warn."""
    copied = copy.deepcopy(network).cpu().eval()
    for weight in (*copied.parameters(), *copied.buffers()):
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)
    return copied
