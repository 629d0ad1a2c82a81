"""What the commands of `python -m fewstep.icd` do: files in, files out, one line told."""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fewstep.distillation.boundaries import Boundaries
from fewstep.files.contact_sheet import Sample, contact_sheet
from fewstep.files.durable import replace_file
from fewstep.files.names import write_new
from fewstep.files.pictures import as_png, read_mask, read_picture, to_picture
from fewstep.icd.code_scale import require_noise_scale
from fewstep.icd.editing import Editing
from fewstep.icd.pair import InvertibleConsistency
from fewstep.icd.released_pair import load_released_pair
from fewstep.icd.watched_pair import Watch
from fewstep.one_line import one_line
from fewstep.rng import PerSampleRng

EDITING = ("backend", "prompt_below", "guide_by", "replay", "cross_share", "self_share", "mode", "amplify", "blend")
PAPER = Boundaries((0.0, 0.26, 0.52, 0.78, 1.0))
Pictures = Sequence[tuple[str, Tensor]]


def generate(options: argparse.Namespace) -> str:
    require_noise_scale(options.noise_scale)
    if options.code is not None and options.noise_scale is not None:
        raise ValueError("--noise-scale is of noise; a code is decoded as it is")
    code = None if options.code is None else read_code(options.code)
    pair, watch = _loaded(options), Watch()
    scale = default_scale(pair, options.guidance_scale)
    watched = watch.pair(pair)
    if code is None:
        rng = PerSampleRng(options.seed, [options.prompt], options.device)
        image = watched.generate([options.prompt], rng, scale, options.guided_below, options.noise_scale)
    else:
        check_code(code, pair)
        image = watched.decode(code.to(options.device), [options.prompt], scale, options.guided_below)
    return _write(options, pair, watch, image)


def invert(options: argparse.Namespace) -> str:
    read_picture(options.image, 1)  # what cannot be read is said before a network is loaded
    if options.code is not None and options.code.suffix != ".safetensors":
        raise ValueError(f"--code {options.code}: give the code's file a name that ends in .safetensors")
    pair, watch = _loaded(options), Watch()
    image = read_picture(options.image, pair.model.image_size, options.crop).to(options.device)
    watched, prompts = watch.pair(pair), [options.source]
    code = watched.encode(image, prompts, _noise(options))[-1]
    decoded = watched.decode(code, prompts)
    written = None if options.code is None else _put(options.code, code_file(code), options.overwrite)
    told = _write(options, pair, watch, decoded, [("source", image)])
    return f"{told}  reconstruction {psnr(decoded, image):.1f} dB{f'  code {written}' if written else ''}"


def edit(options: argparse.Namespace) -> str:
    read_picture(options.image, 1)
    if options.mask is not None:
        read_mask(options.mask, options.image, 1)
    pair, watch = _loaded(options), Watch()
    values = {name: getattr(options, name) for name in EDITING}
    scale = default_scale(pair, options.guidance_scale)
    editing = Editing(guidance_scale=scale, guided_below=options.guided_below, **values)
    size, mask = pair.model.image_size, None
    image = read_picture(options.image, size, options.crop).to(options.device)
    if options.mask is not None:
        mask = read_mask(options.mask, options.image, size, options.crop).to(options.device)
    edited = watch.pair(pair).edit(image, [options.source], [options.target], _noise(options), editing, mask)
    return _write(options, pair, watch, edited, [("source", image)])


COMMANDS: Mapping[str, Callable[[argparse.Namespace], str]] = {"generate": generate, "invert": invert, "edit": edit}


def default_scale(pair: InvertibleConsistency, wanted: float | None, usual: float = 8.0) -> float:
    """The scale that was asked for or, where none was, the trained one that is nearest to 8, the paper's."""
    return min(pair.guidance_scales, key=lambda scale: abs(scale - usual)) if wanted is None else wanted


def psnr(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1]; infinite for equal ones."""
    error = (image - reference).square().mean().item()
    return 10 * math.log10(4 / error) if error else math.inf


def code_file(code: Tensor) -> bytes:
    """A code [1, C, h, w] as the tensor `code` of a safetensors file."""
    from safetensors.torch import save

    return save({"code": code.detach().float().cpu().contiguous()})


def read_code(path: str | Path) -> Tensor:
    """ValueError in one line for a file without a code of finite numbers."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        code = load_file(path)["code"]
        if not (code.is_floating_point() and code.isfinite().all()):
            raise ValueError(f"its {code.dtype} are not all finite")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} holds no code ({error}); give a file that `invert --code` wrote") from None
    return code


def check_code(code: Tensor, pair: InvertibleConsistency) -> None:
    shape = (1, pair.model.latents.channels, *pair.model.sample_size)
    if tuple(code.shape) != shape:
        raise ValueError(f"the code has shape {list(code.shape)}, this pair's {list(shape)}: another model's")


def require_device(name: str) -> None:
    """ValueError in one line for a device that this machine or this torch does not have."""
    try:
        usable = torch.empty(0, device=name).device.type != "meta"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"--device {name!r}: {one_line(error, 100)}; cpu is always there") from None
    if not usable:
        raise ValueError(f"--device {name!r} holds no values; cpu is always there")


def _loaded(options: argparse.Namespace) -> InvertibleConsistency:
    require_device(options.device)
    where = getattr(torch, options.dtype), options.device, options.size
    own = {name: getattr(options, name) for name in ("boundaries", "start", "trained_scales")}
    files = options.forward_adapter, options.reverse_adapter
    if options.export is not None:
        if given := [name for name, value in own.items() if value is not None]:
            raise ValueError(f"--{given[0].replace('_', '-')} is of adapters of others; an export tells its own")
        if any(files):
            raise ValueError("give EXPORT, or --forward-adapter and --reverse-adapter, not both")
        return InvertibleConsistency.load(options.export, options.pipeline, options.network, *where)
    if not all(files):
        raise ValueError("give EXPORT, the folder that an ICD run exported, or --forward-adapter and --reverse-adapter")
    if options.pipeline is None:
        raise ValueError("adapters of others need --pipeline, what they were distilled from, and mostly --network")
    start = PAPER.start if own["start"] is None else own["start"]
    ends = Boundaries(own["boundaries"] or PAPER.times, start)
    return load_released_pair(*files, options.pipeline, options.network, ends, own["trained_scales"], *where)


def _noise(options: argparse.Namespace) -> PerSampleRng:
    """That of the name of the picture, as `train.py predict` draws it."""
    return PerSampleRng(options.seed, [options.image.stem], options.device)


def _write(
    options: argparse.Namespace, pair: InvertibleConsistency, watch: Watch, image: Tensor, before: Pictures = ()
) -> str:
    out = str(_put(options.out, as_png(to_picture(image)), options.overwrite))
    if options.steps_sheet is not None:
        views = [(f"t = {t:.2f}", picture) for t, picture in watch.pictures(pair)]
        shown = [*before, *views, ("result", image)]
        samples = [Sample(label, {"": to_picture(picture)}) for label, picture in shown]
        page = as_png(contact_sheet(samples, len(samples), side=160, lines=1))
        out = f"{out}  steps {_put(options.steps_sheet, page, options.overwrite)}"
    return f"{out}  {watch.calls} network calls"


def _put(path: Path, content: bytes, overwrite: bool) -> Path:
    if not overwrite:
        return write_new(path, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)
    return path
