"""Numbers that a histogram can be made of."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def finite_columns(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """log key -> [N] numbers, without those that are not finite and without keys that have no other."""
    columns = {key: np.asarray(column, dtype=float) for key, column in values.items()}
    finite = {key: column[np.isfinite(column)] for key, column in columns.items()}
    return {key: column for key, column in finite.items() if len(column)}
