"""Folders and hubs bring weights and settings; what they bring as Python code is not run, and nobody is asked to."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def no_foreign_code() -> Iterator[None]:
    """While it holds, transformers and diffusers import nothing from a model's folder or hub repository.

    Else `auto_map` in a config makes transformers ask on the terminal, and a `trust_remote_code` that the folder itself
    hands on (open_clip's `tokenizer_kwargs`) answers for the user. ValueError in one line where code would run.
    """
    from diffusers.utils import dynamic_modules_utils as of_diffusers
    from transformers import dynamic_module_utils as of_transformers

    # Both import a file through one function; transformers gives up at once where it has no time to ask.
    changes: list[tuple[Any, str, Any]] = [
        (of_diffusers, "get_class_in_module", _refuse),
        (of_transformers, "get_class_in_module", _refuse),
        (of_transformers, "TIME_OUT_REMOTE_CODE", 0),
        (of_transformers, "_raise_timeout_error", _refuse),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _refuse(*_: Any, **__: Any) -> None:
    raise ValueError("it brings code of its own (auto_map), and none of a folder or hub is run")
