"""Metrics of pictures are not asked of data without any: said before a network is fetched or loaded."""

from collections.abc import Mapping

from callbacks.metrics.catalogue import CHOICES
from commands.trusted_code import resolve

OF_PICTURES = {choice.callback.rpartition(".")[2] for choice in CHOICES.values() if choice.of_pictures}


def require_pictures(asked: Mapping[str, str], data: str, remedy: str) -> None:
    """ValueError in one line where a metric of pictures is asked of vectors.

    asked: {how the user wrote it: class path of its callback}; data: class path of the datamodule.
    """
    of_pictures = [name for name, path in asked.items() if is_of_pictures(path)]
    if of_pictures and reads_vectors(kind := resolve(data)):
        raise ValueError(f"{of_pictures[0]} measures pictures, and {kind.__name__} reads vectors; {remedy}")


def is_of_pictures(path: str) -> bool:
    """Whether the callback at this class path measures pictures."""
    return path.rpartition(".")[2] in OF_PICTURES


def reads_vectors(kind: type) -> bool:
    """Whether a datamodule gives rows of numbers."""
    return hasattr(kind, "y_names")
