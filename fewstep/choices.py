"""One line for an option that is none of the known ones, and the names of the number formats."""

from collections.abc import Collection

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def require_choice(name: str, value: object, choices: Collection[str]) -> None:
    """ValueError that names the value and the choices unless it is one of them."""
    if value not in choices:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(choices)}")
