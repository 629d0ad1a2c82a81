"""Each kind of change alone, against torchvision, shifted arrays and moments."""

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from fewstep.augmentation import Augmentation, blurred
from fewstep.rng import PerSampleRng


def pictures(count=8, height=16, width=24):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8


def drawn(seed, **options):
    torch.manual_seed(seed)
    return Augmentation(**options)(pictures())


def test_nothing_changes_nothing_and_every_picture_draws_its_own():
    assert torch.equal(Augmentation()(pictures()), pictures())
    for kind, most in (("shift", 3), ("scale", 0.2), ("blur", 1.0), ("contrast", 0.5), ("noise", 0.3), ("smear", 1)):
        same = Augmentation(**{kind: most})(pictures()[:1].expand(8, -1, -1, -1))
        assert len({tuple(row.flatten().tolist()) for row in same}) == 8
        assert torch.equal(drawn(1, **{kind: most}), drawn(1, **{kind: most}))
        assert not torch.equal(drawn(1, **{kind: most}), drawn(2, **{kind: most}))


def test_a_smear_moves_places_by_a_field_of_its_deviation():
    """On a ramp of one level per pixel. E u^2 = 1/3 for the strength, (2/3)^2 for values between two drawn ones."""
    ramp = (torch.arange(32.0) - 15.5).expand(256, 3, 32, 32) / 32
    torch.manual_seed(0)
    moved = (Augmentation(smear=1.0)(ramp) - ramp)[..., 4:-4] * 32
    assert moved.square().mean().item() == pytest.approx(4 / 27, rel=0.25)
    assert abs(moved.mean().item()) < 0.05
    assert (moved[..., 1:] - moved[..., :-1]).square().mean() < moved.square().mean() / 10  # smooth
    flat = torch.full((2, 3, 16, 24), 0.4)
    torch.testing.assert_close(Augmentation(smear=3.0)(flat), flat)


def test_with_an_rng_of_samples_a_picture_does_not_depend_on_its_batch():
    change = Augmentation(shift=2, scale=0.1, blur=1.0, contrast=0.2, noise=0.3, smear=1.0)
    whole = change(pictures(), PerSampleRng(0, [str(place) for place in range(8)]))
    alone = change(pictures()[3:4], PerSampleRng(0, ["3"]))
    torch.testing.assert_close(whole[3:4], alone, rtol=0, atol=1e-5)
    assert not torch.equal(change(pictures()[3:4], PerSampleRng(1, ["3"])), alone)


@pytest.mark.parametrize("draw", [(1.0, 0.75), (0.0, 0.5)])
def test_a_shift_by_whole_pixels_moves_the_picture(monkeypatch, draw):
    """Draws of 1 and 0.75 with at most 4 pixels: 4 to the right and 2 down."""
    images, rows = pictures(), torch.zeros(6, 8)
    rows[0], rows[1] = draw
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: rows)
    right, down = (round(4 * (2 * u - 1)) for u in draw)
    moved = Augmentation(shift=4)(images)
    here = slice(max(down, 0), 16 + min(down, 0)), slice(max(right, 0), 24 + min(right, 0))
    there = slice(max(-down, 0), 16 + min(-down, 0)), slice(max(-right, 0), 24 + min(-right, 0))
    torch.testing.assert_close(moved[:, :, *here], images[:, :, *there], rtol=0, atol=1e-5)
    edge = images[..., :1] if right > 0 else images[..., -1:]
    torch.testing.assert_close(moved[:, :, here[0], 0 if right > 0 else -1], edge[:, :, there[0], 0], rtol=0, atol=1e-5)


def test_a_larger_picture_is_the_resized_one(monkeypatch):
    """Half as large again, on a linear ramp, which bilinear interpolation keeps exactly."""
    rows = torch.full((6, 1), 0.5)
    rows[2] = 1.0
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: rows)
    across = (torch.arange(24) + 0.5 - 12) / 24
    grown = Augmentation(scale=0.5)(across.expand(1, 3, 16, 24))
    torch.testing.assert_close(grown, (across / 1.5).expand(1, 3, 16, 24), rtol=0, atol=1e-5)


@pytest.mark.parametrize("deviation", [0.4, 1.0, 2.3])
def test_blur_is_that_of_torchvision_inside(deviation):
    images, radius = pictures(3, 32, 40), 7
    ours = blurred(images, torch.full((3,), deviation), radius)
    theirs = F.gaussian_blur(images, [2 * radius + 1] * 2, [deviation] * 2)
    inside = slice(radius, -radius)
    torch.testing.assert_close(ours[..., inside, inside], theirs[..., inside, inside], rtol=0, atol=1e-5)
    torch.testing.assert_close(blurred(images, torch.zeros(3), radius), images)
    flat = torch.full((2, 3, 9, 9), 0.3)
    torch.testing.assert_close(blurred(flat, torch.tensor([0.5, 2.0]), 6), flat)


def test_noise_and_contrast_have_the_sizes_that_are_asked_for():
    torch.manual_seed(0)
    grey = torch.zeros(400, 3, 16, 16)
    spread = Augmentation(noise=0.2)(grey).flatten(1).std(1)
    assert 0.08 < spread.mean() < 0.12  # uniform between 0 and 0.2
    assert spread.max() < 0.22
    half = torch.full((400, 3, 4, 4), 0.5)
    level = Augmentation(contrast=0.4)(half)[:, 0, 0, 0]
    assert 0.3 <= level.min() < 0.32
    assert 0.68 < level.max() <= 0.7


def test_it_is_differentiable_and_stays_in_range():
    images = pictures().requires_grad_()
    changed = Augmentation(shift=2, scale=0.1, blur=0.7, contrast=0.3, noise=1.0)(images)
    assert changed.abs().max() <= 1
    changed.square().sum().backward()
    assert (images.grad.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize(("kind", "value"), [("noise", -0.1), ("scale", 1.0), ("shift", float("nan"))])
def test_what_cannot_be_meant_is_one_line(kind, value):
    with pytest.raises(ValueError, match=rf"augmentation\.{kind}={value}: give 0 or more"):
        Augmentation(**{kind: value})
