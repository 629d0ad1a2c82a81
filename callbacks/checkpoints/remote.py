"""Checkpoints in an object store or on a server (s3://, gs://, memory://, https://), through fsspec."""

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from fsspec.core import url_to_fs
from torch._subclasses.fake_tensor import FakeTensorMode


def is_remote(path: str | Path) -> bool:
    """Whether this is an address with a scheme, not a path."""
    return "://" in str(path)


def require_store(address: str) -> None:
    """ImportError or ValueError in one line, before the first step, if fsspec cannot reach such addresses here."""
    url_to_fs(address)


def load_remote(address: str, map_location: Any = None, lazily: bool = False) -> Any:
    """The content of a checkpoint, `weights_only=True` always; Lightning's own reader defaults to False for https.

    lazily: tensors have shapes and no values, and a few kilobytes are read instead of all.
    """
    store, path = url_to_fs(address)
    with store.open(path, "rb") as file:
        if lazily:
            with FakeTensorMode():
                return torch.load(file, weights_only=True)
        return torch.load(file, map_location=map_location or "cpu", weights_only=True)


def save_remote(checkpoint: dict[str, Any], address: str, keep_previous: bool) -> None:
    """Upload beside the target, read the directory and the plain values back, then move over the target.

    The upload is streamed and passes through no local file. A failed or killed one costs nothing but a hidden object
    `.NAME.tmp`, which the next one replaces. Checksums of the weights in transit are the store's affair.
    """
    store, target = url_to_fs(address)
    folder, _, name = target.rpartition("/")
    partial = f"{folder}/.{name}.tmp"
    store.makedirs(folder, exist_ok=True)
    try:
        with store.open(partial, "wb") as file:
            torch.save(checkpoint, file)
        store.invalidate_cache()
        with store.open(partial, "rb") as file, zipfile.ZipFile(file), FakeTensorMode():
            file.seek(0)
            torch.load(file, weights_only=True)
        if keep_previous and store.exists(target):
            stem, _, suffix = name.rpartition(".")
            store.copy(target, f"{folder}/{stem}-1.{suffix}")
        store.mv(partial, target)
    finally:
        with suppress(Exception):
            if store.exists(partial):
                store.rm(partial)


def remove_remote(address: str) -> None:
    """Delete one object, never what lies below it."""
    store, target = url_to_fs(address)
    if store.isfile(target):
        store.rm_file(target)
