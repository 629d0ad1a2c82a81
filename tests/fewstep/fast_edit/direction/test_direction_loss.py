"""Both forms against cosines and closed forms, and their gradients where the authors' code has none that is finite."""

import math

import pytest
import torch
from torch.nn import functional as F

from fewstep.fast_edit.direction.direction_loss import LEAST_SHARE, OFFSET, direction_loss, image_direction


def units(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def axis(dim=4):
    return torch.eye(dim, dtype=torch.float64)[0]


def test_both_forms_are_those_of_the_cosine():
    edit, reference, direction = units(5, 7, 16), units(5, 7, 16, seed=1), units(16, seed=2)
    cosine = F.cosine_similarity(edit - reference, direction.expand(5, 7, 16), dim=-1)
    bare = direction_loss(edit, reference, direction, "bare")
    assert bare.shape == (5, 7)
    torch.testing.assert_close(bare, 1 - cosine, rtol=0, atol=2e-3)
    torch.testing.assert_close(direction_loss(edit, reference, direction), -((2 - bare) / 2).log())
    torch.testing.assert_close(image_direction(edit, reference, 1e-6), F.normalize(edit - reference, dim=-1))


@pytest.mark.parametrize(("angle", "bare", "log"), [(0, 0, 0), (90, 1, math.log(2)), (120, 1.5, math.log(4))])
def test_values_at_known_angles(angle, bare, log):
    """The embeddings move by a whole unit at this angle."""
    turn = math.radians(angle)
    moved = torch.tensor([math.cos(turn), math.sin(turn), 0, 0], dtype=torch.float64)
    for form, value in (("bare", bare), ("log", log)):
        loss = direction_loss(moved, torch.zeros_like(moved), axis(), form)
        assert loss.item() == pytest.approx(value, abs=3e-3)


def test_at_the_start_the_gradient_is_that_of_the_unnormalised_loss():
    """Edit and reference are equal, where 1e-7 instead of the offset makes a gradient of ten million."""
    start, direction = units(3, 16), units(16, seed=2)
    for form, value in (("log", math.log(2)), ("bare", 1.0)):
        edit = start.clone().requires_grad_()
        loss = direction_loss(edit, start, direction, form)
        assert loss.detach().tolist() == pytest.approx([value] * 3)
        loss.sum().backward()
        torch.testing.assert_close(edit.grad, (-direction / OFFSET).expand(3, 16))


def test_the_first_gradient_is_of_the_size_of_later_ones():
    direction = axis()
    sizes = []
    for length in (0.0, 0.25, 0.5, 1.0):  # sideways
        edit = (torch.eye(4, dtype=torch.float64)[1] * length).requires_grad_()
        direction_loss(edit, torch.zeros_like(direction), direction).backward()
        sizes.append(edit.grad.norm().item())
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] < 25 * sizes[-1]


@pytest.mark.parametrize("length", [0.1, 1.0, 2.0])
def test_opposite_directions_have_finite_values_and_gradients(length):
    """Exactly opposite, and around it: nowhere above 1 / sqrt(least share) per unit of angle, nor lost."""
    for turn in (0.0, 1e-4, 1e-3, 1e-2, 0.1):
        moved = torch.tensor([-math.cos(turn), math.sin(turn), 0, 0], dtype=torch.float64) * length
        edit = moved.requires_grad_()
        loss = direction_loss(edit, torch.zeros_like(edit), axis(), offset=1e-2)
        assert math.log(2) < loss.item() < 7.91
        loss.backward()
        size = edit.grad.norm().item() * length
        assert size < 1.2 / math.sqrt(LEAST_SHARE)
        assert turn == 0 or edit.grad[1] < 0  # descent turns it away from the opposite


def test_the_tangent_goes_on_where_the_logarithm_ends():
    """Value and slope from both sides of the least share."""
    values, slopes = [], []
    for share in (LEAST_SHARE * (1 - 1e-6), LEAST_SHARE * (1 + 1e-6)):
        cosine = 2 * share - 1
        edit = torch.tensor([cosine, math.sqrt(1 - cosine**2), 0, 0], dtype=torch.float64).requires_grad_()
        loss = direction_loss(edit, torch.zeros_like(edit), axis(), offset=1e-9)
        loss.backward()
        values.append(loss.item())
        slopes.append(edit.grad)
    assert values == pytest.approx([-math.log(LEAST_SHARE)] * 2, abs=1e-5)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=0)


@pytest.mark.parametrize("form", ["log", "bare"])
def test_gradients_are_those_of_finite_differences(form):
    reference, direction = units(4, 6, seed=1), units(6, seed=2)
    edit = units(4, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: direction_loss(e, reference, direction, form), edit)


def test_an_unknown_form_is_one_line():
    with pytest.raises(ValueError, match="form='square': choose one of log, bare"):
        direction_loss(units(1, 4), units(1, 4), axis(), "square")
