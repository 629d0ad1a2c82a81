"""Datamodules: shards on disk -> dict batches (see the module docstring of each for its keys and shapes).

The classes are imported on first use, so that `python -m datamodules.prepare` starts without Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datamodules.image_text import ImageTextDataModule
    from datamodules.paired_vectors import PairedVectorsDataModule
    from datamodules.picture_requests import PictureRequests
    from datamodules.table_requests import TableRequests

__all__ = ["ImageTextDataModule", "PairedVectorsDataModule", "PictureRequests", "TableRequests"]

_HOMES = {
    "ImageTextDataModule": "datamodules.image_text",
    "PairedVectorsDataModule": "datamodules.paired_vectors",
    "PictureRequests": "datamodules.picture_requests",
    "TableRequests": "datamodules.table_requests",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'datamodules' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
