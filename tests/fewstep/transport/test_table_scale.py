"""Scales of columns against their definitions, and what is said of heavy tails and of constants."""

import pytest
import torch

from fewstep.transport.table_scale import check_table, far_values, scale_of


def normal(num=4000, seed=0):
    return torch.randn(num, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_of_a_normal_column_it_is_the_deviation():
    shift, scale = scale_of(normal() * torch.tensor([3.0, 1000.0]) + torch.tensor([5.0, -2e4]))
    torch.testing.assert_close(shift, torch.tensor([5.0, -2e4]).double(), rtol=0.02, atol=0.2)
    torch.testing.assert_close(scale, torch.tensor([3.0, 1000.0]).double(), rtol=0.05, atol=0)


def test_a_few_far_values_hardly_move_it():
    rows = normal()
    moved = rows.clone()
    moved[0] = 1e3  # the deviation becomes 16
    torch.testing.assert_close(scale_of(moved)[1], scale_of(rows)[1], rtol=0.05, atol=0.05)


def test_it_is_never_zero_where_most_values_are_equal():
    rows = torch.zeros(100, 1)
    rows[:10, 0] = torch.arange(10.0)
    assert scale_of(rows)[1].item() == pytest.approx(rows.double().std(correction=0).item() / 20)


def test_heavy_tails_are_named_and_normal_columns_are_not():
    rows = normal()
    assert far_values(rows) is None
    rows[7, 1] = -50
    assert far_values(rows).startswith("column 2 of y reaches 5")


def test_a_constant_is_told_apart_from_a_small_spread():
    rows = 1000 + normal().float() * 0.05
    check_table(rows, rows)
    rows[:, 1] = 0.1
    with pytest.raises(ValueError, match=r"column 2 of y is 0.1 throughout"):
        check_table(rows, rows)
