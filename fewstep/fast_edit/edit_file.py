"""An edit as one file: its weights and, in the header of safetensors, all that applying it takes.

Files come from strangers: nothing but safetensors is read, headers are bounded, every entry has a kind and a range.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.fast_edit.edit_header import EditAbout, about_of, check_name, check_told, told_of
from fewstep.fast_edit.tuned import Tuned, TunedAdapters
from fewstep.files.durable import replace_file
from fewstep.files.names import write_new
from fewstep.files.plain_json import parse_json
from fewstep.one_line import one_line

ENTRY = "fewstep_edit"  # of the header's metadata: one JSON text
MOST_HEADER = 1 << 22  # bytes: dozens of times that of a LoRA file of Stable Diffusion
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class StoredEdit:
    """What a file holds. state: float32, and as large as rank and targets say; whether it fits a base is not known.

    base_sha256: of the base, see EditBase.sha256. kind: "lora", with rank, alpha and the layers (`targets`) that are
    adapted, or "full", without. versions: of what wrote it.
    """

    path: Path
    name: str
    about: EditAbout
    base_sha256: str
    kind: str
    state: dict[str, Tensor]
    versions: Mapping[str, str]
    rank: int = 0
    alpha: float = 0.0
    targets: tuple[str, ...] = ()


def save_edit(
    path: str | Path, tuned: Tuned, name: str, about: EditAbout, half: bool = False, overwrite: bool = False
) -> Path:
    """Write one edit of `tuned`; where there is such a file, NAME-2 unless overwrite. Returns where.

    half: weights as float16. ValueError in one line for a name or weights that could not be read again.
    """
    from safetensors.torch import save

    check_name(name, "the edit's name")
    state = {key: value.detach().cpu().contiguous() for key, value in tuned.state(name).items()}
    if half:
        state = {key: value.half() for key, value in state.items()}
    _check_finite(state)
    base = {"name": about.base, "sha256": tuned.base.sha256}
    told: dict[str, Any] = {**told_of(about), "name": name, "base": base, "kind": "full"}
    if isinstance(tuned, TunedAdapters):
        layers = sorted({key.rsplit(".", 2)[0] for key in state})
        told |= {"kind": "lora", "rank": tuned.adapters.rank, "alpha": tuned.adapters.alpha, "targets": layers}
    try:
        header = json.dumps(told, allow_nan=False)
        check_told(parse_json(header))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be told of in a file: {one_line(error)}") from None
    content = save(state, metadata={"format": "pt", ENTRY: header})
    if not overwrite:
        return write_new(path, content)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    replace_file(Path(path), content)
    return Path(path)


def read_edit(path: str | Path) -> StoredEdit:
    """What `save_edit` wrote, by whomever; ValueError in one line that names the file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no edit {path}; give a file that `python -m fewstep.fast_edit learn` wrote")
    try:
        told = _header(path)
        check_told(told)
        state = load_file(path)
        _check_finite(state)
        lora: dict[str, Any] = {}
        if told["kind"] == "lora":
            lora = {"rank": told["rank"], "alpha": told["alpha"], "targets": tuple(told["targets"])}
            _check_ranks(state, told["rank"], told["targets"])
        state = {key: value.float() for key, value in state.items()}
        about, sha256 = about_of(told), told["base"]["sha256"]
        return StoredEdit(path, told["name"], about, sha256, told["kind"], state, told["versions"], **lora)
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise ValueError(f"cannot read the edit {path}: {one_line(error)}") from None


def check_together(edits: Sequence[StoredEdit]) -> None:
    """ValueError in one line for files that cannot be of one Tuned: said before a base is loaded."""
    known: dict[str, StoredEdit] = {}
    for edit in edits:
        if other := known.get(edit.name):
            told = f"{other.path} and {edit.path} are both named {edit.name}"
            raise ValueError(f"{told}; learn one of them with another --name")
        known[edit.name], first = edit, edits[0]
        if edit.base_sha256 != first.base_sha256:
            told = f"{first.path} is an edit of the base {first.about.base}, {edit.path} of {edit.about.base}"
            raise ValueError(f"{told} ({first.base_sha256}, {edit.base_sha256}); only edits of one base go together")
        if edit.kind != first.kind:
            told = f"{first.path} is of kind {first.kind}, {edit.path} of kind {edit.kind}"
            raise ValueError(f"{told}; only edits of one kind go together")


def _header(path: Path) -> Any:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER:
            raise ValueError(f"it is no safetensors file, or one with a header above {MOST_HEADER} bytes")
        header = parse_json(file.read(length))
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    told = metadata.get(ENTRY) if isinstance(metadata, dict) else None
    if not isinstance(told, str):
        raise ValueError("it holds no edit; give a file that `python -m fewstep.fast_edit learn` wrote")
    return parse_json(told)


def _check_ranks(state: Mapping[str, Tensor], rank: int, targets: Sequence[str]) -> None:
    wanted = {f"{layer}.{half}.weight" for layer in targets for half in ("lora_A", "lora_B")}
    if odd := sorted(wanted ^ state.keys()):
        raise ValueError(f"its weights are not those of its {len(targets)} layers: {odd[0]:.80} ({len(odd)} such)")
    for key, value in state.items():
        if value.ndim < 2 or value.shape[int(".lora_B." in key)] != rank:
            raise ValueError(f"{key:.80} has shape {list(value.shape)}, and the rank is {rank}")


def _check_finite(state: Mapping[str, Tensor]) -> None:
    for key, value in state.items():
        if value.dtype not in DTYPES or not value.isfinite().all():
            told = f"{key:.80} ({value.dtype}) does not hold finite numbers, of which float16 has none above 65504"
            raise ValueError(f"{told}; learn the edit again")
