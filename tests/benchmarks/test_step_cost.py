"""The two forms that benchmarks/ot_conditional/step_cost.py times are the same mathematics, and memory is counted."""

import pytest
import torch

from benchmarks.ot_conditional.step_cost import LEAVES, fewstep_loss, make_inputs, peak_bytes, plain_loss, step


@pytest.mark.parametrize("dim", [1, 3])
def test_plain_form_equals_fewstep_in_loss_and_gradient(dim):
    inputs = make_inputs(dim, batch=4, components=2, dtype=torch.float64)
    plain, ours = step(plain_loss, inputs), step(fewstep_loss, inputs)
    for name, expected, value in zip(("loss", *LEAVES), plain, ours, strict=True):
        assert torch.allclose(value, expected, rtol=1e-12, atol=1e-14), name
        # Each of the gradients is worth comparing: none is zero, unless a sum over one number is all there is.
        assert expected.abs().max() > 1e-3, name


def test_peak_memory_is_that_of_the_tensors():
    """2 MiB for the square, which the logarithm keeps, and 4 MiB while its gradient is divided by it."""
    inputs = {name: torch.ones(1 << 18, requires_grad=True) for name in LEAVES} | {"y": torch.ones(1)}

    def loss(inputs):
        return inputs["slope"].square().sum() + sum(inputs[name].sum() for name in LEAVES)

    assert peak_bytes(loss, inputs) == pytest.approx(0, abs=64)


def test_fewstep_never_builds_the_broadcast_tensor():
    inputs = make_inputs(32, batch=16, components=8)
    broadcast = 16 * 8 * 8 * 32 * 4  # bytes of one [B, N, M, D]
    assert peak_bytes(fewstep_loss, inputs) < broadcast < peak_bytes(plain_loss, inputs)
