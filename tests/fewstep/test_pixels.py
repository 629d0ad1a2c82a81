import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from fewstep.pixels import (
    CLIP_MEAN,
    CLIP_STD,
    CutPrompts,
    Preprocessing,
    check_images_and_prompts,
    pixel_values,
    to_uint8,
)

GREY_LEVEL = 1 / 255 / min(CLIP_STD)
SHAPES = [(32, 32), (24, 24), (50, 37), (37, 50), (41, 150), (20, 45), (32, 77)]


def pictures(height, width, count=2):
    """Smooth colours with hard edges, as 8-bit pictures and as floats in [-1, 1]."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [
        np.sin(x / 3 + c + k) * np.cos(y / 4 - c) + (x * (k + 1) // 7 + y // 5) % 2
        for k in range(count)
        for c in range(3)
    ]
    values = np.stack(waves).reshape(count, 3, height, width)
    values = np.rint((values - values.min()) / np.ptp(values) * 255).astype(np.uint8)
    return [Image.fromarray(v.transpose(1, 2, 0)) for v in values], torch.from_numpy(values) / 127.5 - 1


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_path_is_the_published_pipeline_on_pictures(shape):
    """Resize, CenterCrop, ToTensor, Normalize: the transform of ImageReward and of CLIP, bit for bit."""
    published = transforms.Compose(
        [
            transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )
    images, floats = pictures(*shape)
    assert torch.equal(pixel_values(floats, Preprocessing(32)), torch.stack([published(image) for image in images]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_every_mode_is_open_clips(shape, mode, interpolation):
    from open_clip.transform import image_transform

    published = image_transform(32, False, resize_mode=mode, interpolation=interpolation)
    images, floats = pictures(*shape)
    ours = pixel_values(floats, Preprocessing(32, mode, interpolation))
    assert torch.equal(ours, torch.stack([published(image) for image in images]))


@pytest.mark.parametrize("shape", [*SHAPES, (24, 48)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(24, 48), (48, 20)])
def test_every_mode_for_a_network_of_rectangles_is_open_clips(shape, mode, size):
    from open_clip.transform import image_transform

    published = image_transform(size, False, resize_mode=mode)
    images, floats = pictures(*shape)
    ours = pixel_values(floats, Preprocessing(size, mode))
    assert torch.equal(ours, torch.stack([published(image) for image in images]))
    close = pixel_values(floats, Preprocessing(size, mode), differentiable=True)
    assert (close - ours).abs().mean() < 0.4 * GREY_LEVEL


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_differentiable_path_is_close_and_has_gradients(shape, mode):
    """Two roundings to half a level, the first amplified by at most 1.4; more only where PIL saturates in between."""
    harsh = pictures(*shape)[1].requires_grad_()
    soft = to_uint8(harsh.detach() * 0.6) / 127.5 - 1
    wanted = Preprocessing(32, mode)
    for floats, largest in ((soft, 1.2), (harsh, 8)):
        difference = (pixel_values(floats, wanted, differentiable=True) - pixel_values(floats.detach(), wanted)).abs()
        assert difference.max() < largest * GREY_LEVEL
        assert difference.mean() < 0.4 * GREY_LEVEL
    pixel_values(harsh, wanted, differentiable=True).sum().backward()
    assert torch.isfinite(harsh.grad).all()
    assert (harsh.grad != 0).any(dim=1).float().mean() > 0.25  # what is cut off has none


def test_rounding_to_8_bit_is_to_the_nearest_level_and_never_wraps():
    levels = torch.arange(256, dtype=torch.uint8)
    values = levels / 127.5 - 1
    for shift in (0.0, 0.45 / 127.5, -0.45 / 127.5):
        assert torch.equal(to_uint8(values + shift), levels)
    assert to_uint8(torch.tensor([-1.0009, 1.0009])).tolist() == [0, 255]
    assert torch.equal(
        to_uint8(torch.tensor([-1.0, 0.25, 1.0]).bfloat16()), torch.tensor([0, 159, 255], dtype=torch.uint8)
    )


def test_rounding_away_a_gradient_is_refused():
    images = torch.zeros(1, 3, 8, 8, requires_grad=True)
    with pytest.raises(ValueError, match="differentiable=True"):
        pixel_values(images, Preprocessing(8))
    with torch.no_grad():
        assert pixel_values(images, Preprocessing(8)).shape == (1, 3, 8, 8)


GOOD = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("images", "prompts", "message"),
    [
        (GOOD[0], ["a", "b"], r"images must be \[B, 3, H, W\] with B >= 1, got shape \[3, 4, 4\]"),
        (GOOD[:, :1], ["a", "b"], r"got shape \[2, 1, 4, 4\]"),
        (GOOD[:0], [], r"got shape \[0, 3, 4, 4\]"),
        (GOOD.to(torch.uint8), ["a", "b"], "images must be float in .*, got torch.uint8; convert"),
        (GOOD + 1.01, ["a", "b"], r"images must lie in \[-1, 1\], got values from 1.01 to 1.01"),
        (GOOD - 255, ["a", "b"], "got values from -255"),
        (GOOD + float("nan"), ["a", "b"], "got values from nan"),
        (GOOD, ["a"], "2 images need as many prompts, got 1"),
        (GOOD, "ab", "prompts must be a list of str"),
        (GOOD, ["a", None], "prompts must be a list of str"),
    ],
)
def test_bad_input_is_one_clear_line(images, prompts, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_images_and_prompts(images, prompts)
    assert "\n" not in str(caught.value)


def test_unknown_resize_mode():
    with pytest.raises(ValueError, match=r"resize_mode must be .*, got 'crop'"):
        pixel_values(GOOD, Preprocessing(8, "crop"))


def test_cut_prompts_are_counted_and_reported_ever_more_rarely():
    cut = CutPrompts("CLIP", 77)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cut.count([False, False])
        assert caught == []
        for _ in range(120):
            cut.count([True, False])
    assert (cut.seen, cut.cut) == (242, 120)
    assert [str(w.message).split(":")[1].split(" prompts")[0] for w in caught] == [
        " 1 of 4",
        " 10 of 22",
        " 100 of 202",
    ]
