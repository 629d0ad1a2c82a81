"""Views that are the same for two pictures, by an identity that holds for equal changes alone; and clamping."""

import pytest
import torch
from torch.nn import functional as F

from fewstep.augmentation import Augmentation
from fewstep.fast_edit.direction.views import Views
from fewstep.fast_edit.in_range import in_range

ALL = Augmentation(shift=2, scale=0.1, blur=1.0, contrast=0.2, noise=0.1)
KINDS = {"shift": 2, "scale": 0.1, "blur": 1.0, "contrast": 0.2, "noise": 0.1, "smear": 1.0}


def pictures(seed=0, count=3):
    return torch.rand(count, 3, 12, 16, generator=torch.Generator().manual_seed(seed)) * 0.6 - 0.3


@pytest.mark.parametrize("kind", [*KINDS, "all"])
def test_source_and_edit_are_changed_alike(kind):
    """Every change with its noise is affine in the picture, so the view of a mean is the mean of the views."""
    views = Views(4, ALL if kind == "all" else Augmentation(**{kind: KINDS[kind]}), flip=kind == "all")
    a, b = pictures(0), pictures(1)
    mean = (views(a, 7) + views(b, 7)) / 2
    torch.testing.assert_close(views((a + b) / 2, 7), mean, rtol=0, atol=1e-5)
    assert (views(a, 7) / 2 + views(b, 8) / 2 - mean)[1:].abs().max() > 0.01  # what another draw would give


def test_the_first_view_is_plain_and_all_others_differ():
    views = Views(4, ALL)
    same = pictures(count=1).expand(3, -1, -1, -1)
    shown = views(same, 0)
    assert shown.shape == (4, 3, 3, 12, 16)
    assert torch.equal(shown[0], same)
    assert torch.equal(shown[1:], views.changed(same, 0))
    distances = torch.cdist(shown[1:].flatten(0, 1).flatten(1), shown.flatten(0, 1).flatten(1))
    assert (distances > 0.1).sum() == 9 * 12 - 9  # each differs from all but itself


def test_one_view_is_the_picture_alone():
    assert torch.equal(Views(1)(pictures(), 0), pictures()[None])
    assert Views(1).changed(pictures(), 0).shape == (0, 3, 3, 12, 16)


def test_a_flip_mirrors_half_of_the_changed_views():
    images = pictures(count=60)
    changed = Views(4, Augmentation(), flip=True).changed(images, 0)
    mirrored = (changed == images.flip(-1)).flatten(2).all(2)
    assert torch.equal(mirrored, ~(changed == images).flatten(2).all(2))
    assert 60 < mirrored.sum() < 120  # of 180


def test_gradients_reach_the_picture_from_every_view():
    images = pictures().requires_grad_()
    for view in Views(4, ALL, flip=True)(images, 0):
        (gradient,) = torch.autograd.grad(view.square().sum(), images, retain_graph=True)
        assert (gradient.flatten(1).norm(dim=1) > 0.1).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [((0,), "views.count=0: must be at least 1"), ((3, Augmentation()), "views.count=3: all views are alike")],
    ids=["none", "alike"],
)
def test_views_that_cannot_be_meant_are_one_line(options, told):
    with pytest.raises(ValueError, match=told):
        Views(*options)


def test_in_range_clamps_and_keeps_the_gradient_that_leads_back():
    """Rows: below, inside, at the edge, above; columns: a descent to smaller values and one to larger values."""
    values = torch.tensor([-1.5, 0.2, 1.0, 1.5])[:, None].expand(4, 2).clone().requires_grad_()
    shown = in_range(values)
    torch.testing.assert_close(shown, F.hardtanh(values))
    shown.backward(torch.tensor([1.0, -1.0]).expand(4, 2))
    assert values.grad.tolist() == [[0, -1], [1, -1], [1, -1], [1, 0]]


def test_a_value_outside_comes_back_to_what_the_loss_wants():
    values = torch.tensor([3.0, -2.0, 0.0, 1.4]).requires_grad_()
    goals = torch.tensor([0.5, -0.25, 5.0, 1.0])
    for _ in range(100):
        (gradient,) = torch.autograd.grad((in_range(values) - goals).square().sum(), values)
        values = (values - 0.1 * gradient).detach().requires_grad_()
    assert values[:2].tolist() == pytest.approx([0.5, -0.25], abs=1e-4)
    assert 1 <= values[2].item() < 2  # pulled out of range, and no further than its last step
    assert values[3].item() == pytest.approx(1.4)  # seen as 1, which is what is wanted
