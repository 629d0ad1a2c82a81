"""One line for an option that is none of the known ones or out of its range, and the names of the number formats."""

import math
from collections.abc import Collection

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def require_choice(name: str, value: object, choices: Collection[str]) -> None:
    """ValueError that names the value and the choices unless it is one of them."""
    if value not in choices:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(choices)}")


def require_range(name: str, value: float, least: float = 0.0, most: float = math.inf, above: bool = False) -> None:
    """ValueError that names the value unless it is finite, at least `least` (above: more than that), at most `most`."""
    if not (least < value if above else least <= value) or not value <= most or value == math.inf:
        start = f"above {least:g}" if above else f"at least {least:g}"
        end = "finite" if most == math.inf else f"at most {most:g}"
        raise ValueError(f"{name}={value}: must be {start} and {end}")
