"""Against torch's own losses and the textbook form."""

import pytest
import torch
from torch.nn import functional as F

from fewstep.losses import l1, l2, pseudo_huber


def pair(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("ours", "theirs"), [(l2, F.mse_loss), (l1, F.l1_loss)])
def test_torch_agrees(ours, theirs):
    """The authors' l2, their default, raised NameError."""
    prediction, target = pair(4, 3, 5)
    expected = torch.stack([theirs(a, b) for a, b in zip(prediction, target, strict=True)])
    torch.testing.assert_close(ours(prediction, target), expected)


def test_pseudo_huber_is_the_mean_over_elements_of_its_definition():
    prediction, target = pair(4, 3, 5, dtype=torch.float64)
    expected = (((prediction - target) ** 2 + 0.2**2).sqrt() - 0.2).mean((1, 2))
    torch.testing.assert_close(pseudo_huber(prediction, target, c=0.2), expected)


def test_pseudo_huber_is_near_l1_far_away_and_quadratic_nearby():
    far, zero = torch.full((1, 4), 5.0), torch.zeros(1, 4)
    torch.testing.assert_close(pseudo_huber(far, zero), l1(far, zero) - 1e-3)
    near = torch.full((1, 4), 1e-8)
    torch.testing.assert_close(pseudo_huber(near, zero), l2(near, zero) / 2e-3, rtol=1e-5, atol=0)


@pytest.mark.parametrize("loss", [pseudo_huber, l2, l1])
def test_equal_inputs_have_no_loss_and_a_finite_gradient(loss):
    prediction = torch.ones(2, 3, requires_grad=True)
    value = loss(prediction, torch.ones(2, 3))
    value.sum().backward()
    assert value.tolist() == [0, 0]
    assert prediction.grad.tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("loss", [pseudo_huber, l2, l1])
def test_half_precision_is_summed_in_float32(loss):
    prediction, target = pair(2, 1000, dtype=torch.bfloat16)
    value = loss(prediction, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(prediction.float(), target.float()))


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"prediction has shape \[2, 3\], target \[3\]; they must agree"):
        l2(torch.ones(2, 3), torch.ones(3))
