"""Weights that do not fit: counts and three names of each kind, from torch's own message."""

import pytest
import torch
from torch import nn

from commands.weight_mismatch import describe_misfit, require_same_numbers


def misfit(stored: nn.Module, built: nn.Module) -> str:
    with pytest.raises(RuntimeError, match="loading state_dict") as caught:
        built.load_state_dict(stored.state_dict())
    return describe_misfit(str(caught.value))


def test_all_three_kinds():
    stored = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(1, 1), "d": nn.ModuleList([nn.Linear(1, 1)] * 3)})
    built = nn.ModuleDict({"a": nn.Linear(2, 5), "c": nn.Linear(1, 1)})
    assert misfit(stored, built) == (
        "the checkpoint does not fit the model: 2 missing (c.weight, c.bias); "
        "8 unexpected (b.weight, b.bias, d.0.weight, ...); "
        "2 of another shape (a.weight [3, 2] for [5, 2], a.bias [3] for [5]); "
        "build the model with the checkpoint's own config"
    )


def test_a_single_number_and_an_unknown_message():
    stored, built = nn.Module(), nn.Module()
    stored.register_buffer("n", torch.zeros(()))
    built.register_buffer("n", torch.zeros(2))
    assert "1 of another shape (n [] for [2])" in misfit(stored, built)
    assert describe_misfit("loading state_dict\n failed oddly") == (
        "the checkpoint does not fit the model: loading state_dict failed oddly; "
        "build the model with the checkpoint's own config"
    )


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.uint8, torch.int64, torch.complex64])
def test_weights_that_loading_would_round_are_refused(dtype):
    """Without a word: a network of whole numbers trains on from there."""
    net = nn.Linear(2, 2)
    stored = {name: weight.to(dtype) for name, weight in net.state_dict().items()}
    if not dtype.is_complex:
        net.load_state_dict(stored)  # torch does not mind
    with pytest.raises(ValueError, match=rf"weight is of {dtype}, the model's of torch.float32"):
        require_same_numbers(stored, net)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(dtype):
    net = nn.BatchNorm1d(2)  # counts batches in whole numbers
    stored = {n: w.to(dtype) if w.is_floating_point() else w for n, w in net.state_dict().items()}
    require_same_numbers(stored, net)
    require_same_numbers({}, net)
    with pytest.raises(ValueError, match="num_batches_tracked is of torch"):
        require_same_numbers({"num_batches_tracked": torch.tensor(1.0)}, net)
