"""Units of tables: what makes the same number mean something else."""

from dataclasses import replace

import pytest
import torch

from fewstep.transport.units import Units

KNOWN = Units(2, 1, ["a", "b"], ["c"], [0.0, 100.0], [1.0, 20.0], [5.0], [2.0])


def test_rounding_is_no_difference():
    assert KNOWN.mismatch(KNOWN) is None
    assert KNOWN.mismatch(replace(KNOWN, x_mean=[1e-9, 100.0 + 1e-6], x_names=None)) is None
    assert Units(1, 1).mismatch(Units(1, 1, y_mean=[0.0], y_std=[1.0])) is None


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"x_mean": [0.0, 101.0]}, "b of x is standardised by (101 ± 20) there and by (100 ± 20) here"),
        ({"y_std": [2.1]}, "c of y is standardised by (5 ± 2.1) there and by (5 ± 2) here"),
        ({"x_mean": None, "x_std": None}, "b of x is standardised by (0 ± 1) there and by (100 ± 20) here"),
        ({"x_names": ["a", "z"]}, "a column of x is 'z' there and 'b' here"),
    ],
)
def test_a_difference_is_told_and_changes_rows(other, told):
    there = replace(KNOWN, **other)
    assert KNOWN.mismatch(there) == told
    assert there.mismatch(KNOWN) is not None
    if "x_names" not in other:
        z = {side: torch.ones(1, dim) for side, dim in (("x", 2), ("y", 1))}
        assert any(not torch.allclose(KNOWN.restore(s, z[s]), there.restore(s, z[s])) for s in z)
