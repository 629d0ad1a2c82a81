"""Pictures of one size: against Pillow and torchvision's own transforms; randomness is a function of the key alone."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from datamodules.image_transforms import CROPS, ImageTransform, central_box, uniform_numbers


def smooth(height: int, width: int) -> torch.Tensor:
    """uint8 [3, H, W], as a decoder hands it over: a view with the channels last."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return torch.from_numpy(np.array(Image.fromarray(coarse).resize((width, height), 3))).permute(2, 0, 1)


def positions(height: int, width: int) -> torch.Tensor:
    """Every pixel tells its row and its column (both below 256)."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, torch.zeros_like(rows)]).to(torch.uint8)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.int() - b.int()).abs().float().max().item()


@pytest.mark.parametrize(("height", "width"), [(96, 128), (131, 90), (64, 64), (20, 30)])
@pytest.mark.parametrize("size", [32, 64, 100])
def test_center_is_the_largest_square_resized_with_antialias(height, width, size):
    image = smooth(height, width)
    (got,) = ImageTransform(size)([image])
    assert got.dtype == torch.uint8
    side = min(height, width)
    box = ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).crop(box)
    reference = np.array(picture.resize((size, size), Image.Resampling.BILINEAR))  # Pillow's reduces with antialias
    assert distance(got, torch.from_numpy(reference).permute(2, 0, 1)) <= 1


def test_center_is_the_usual_resize_and_crop():
    # Where no side is rounded; the outermost pixels see what the crop cut off.
    image = smooth(96, 160)
    usual = v2.CenterCrop(48)(v2.Resize(48, antialias=True)(image))
    (got,) = ImageTransform(48)([image])
    assert distance(got[:, :, 1:-1], usual[:, :, 1:-1]) <= 1


def test_antialias_removes_what_the_small_picture_cannot_show():
    stripes = torch.zeros(3, 128, 128, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    (got,) = ImageTransform(16)([stripes])
    assert got.float().std() < 2


@pytest.mark.parametrize("crop", ["center", "none"])
def test_right_size_is_left_alone(crop):
    image = smooth(64, 64)
    (got,) = ImageTransform(64, crop)([image], (1, 2))
    assert got.data_ptr() == image.data_ptr()
    assert torch.equal(got, image)


@pytest.mark.parametrize(("height", "width", "inner"), [(60, 120, (16, 32)), (120, 40, (32, 11)), (7, 1000, (1, 32))])
def test_none_keeps_the_whole_picture_on_the_background(height, width, inner):
    image = smooth(height, width)
    (got,) = ImageTransform(32, "none", background=(1, 2, 3))([image])
    assert got.shape == (3, 32, 32)
    top, left = (32 - inner[0]) // 2, (32 - inner[1]) // 2
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[top : top + inner[0], left : left + inner[1]] = True
    reference = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(inner[::-1], Image.Resampling.BILINEAR)
    expected = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None].repeat(1, 32, 32)
    expected[:, inside] = torch.from_numpy(np.array(reference)).permute(2, 0, 1).reshape(3, -1)
    assert distance(got, expected) <= 1
    assert torch.equal(got[:, ~inside], expected[:, ~inside])


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (1, 1)])
def test_strips_do_not_explode(crop, shape):
    (got,) = ImageTransform(16, crop)([torch.full((3, *shape), 9, dtype=torch.uint8)], (0,))
    assert got.shape == (3, 16, 16)
    assert 9 in got


def boxes(transform: ImageTransform, height: int, width: int, keys: int) -> np.ndarray:
    """[keys, 4]: top, left, height, width of the random crops."""
    return np.array([transform._random_box(height, width, uniform_numbers((key,))[1:]) for key in range(keys)])


def test_random_crops_have_the_stated_distribution():
    height, width, transform = 180, 240, ImageTransform(64, "random", scale=(0.3, 0.6), ratio=(0.8, 1.25))
    top, left, h, w = boxes(transform, height, width, 4000).T
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + h).max() <= height
    assert (left + w).max() <= width
    area, ratio = h * w / (height * width), w / h
    assert 0.295 < area.min() < 0.305
    assert 0.595 < area.max() < 0.605
    assert abs(area.mean() - 0.45) < 0.005
    assert abs(np.log(ratio).mean()) < 0.01
    assert 0.78 < ratio.min() < 0.82
    assert 1.22 < ratio.max() < 1.28
    for start, free in ((top, height - h), (left, width - w)):
        assert abs((start / free).mean() - 0.5) < 0.02
        assert ((start == 0).any(), (start == free).any()) == (True, True)


def test_random_crop_shows_the_box_it_drew():
    image, transform = positions(100, 200), ImageTransform(50, "random")
    for key in range(20):
        top, left, h, w = transform._random_box(100, 200, uniform_numbers((key,))[1:])
        (got,) = transform([image], (key,))
        expected = v2.functional.resize(image[:, top : top + h, left : left + w], [50, 50], antialias=True)
        assert torch.equal(got, expected)


def test_impossible_shapes_fall_back_to_the_middle():
    transform = ImageTransform(8, "random", scale=(1.0, 1.0))
    assert (boxes(transform, 10, 100, 20) == [0, 43, 10, 13]).all()
    assert (boxes(transform, 100, 10, 20) == [43, 0, 13, 10]).all()


def test_pictures_of_one_sample_are_cut_and_mirrored_alike():
    transform = ImageTransform(32, "random", flip=True)
    small = smooth(60, 80)
    large = v2.functional.resize(small, [120, 160], antialias=True)
    for key in range(12):
        first, same, double = transform([small, small.clone(), large], (3, key))
        assert torch.equal(first, same)
        assert (first.float() - double.float()).abs().mean() < 3
    assert (ImageTransform(32)([small])[0].float() - first.float()).abs().mean() > 3  # which different crops exceed


def test_flip_is_a_fair_coin_that_only_the_key_throws():
    image, transform = positions(16, 16), ImageTransform(16, flip=True)
    flipped = [bool(transform([image], (5, key))[0][1, 0, 0] == 15) for key in range(1000)]
    assert 430 < sum(flipped) < 570
    assert flipped == [bool(transform([image], (5, key))[0][1, 0, 0] == 15) for key in range(1000)]
    assert torch.equal(transform([image], (5, flipped.index(True)))[0], image.flip(2))
    assert torch.equal(transform([image], None)[0], image)


def test_numbers_are_the_same_on_every_machine():
    # The first 4 bytes, little-endian, of what coreutils says: printf 1,2 | b2sum -l 480
    assert uniform_numbers((1, 2))[0] == 0x0DAABF6F / 2**32
    assert uniform_numbers(np.array([1, 2])) == uniform_numbers((1, 2)) != uniform_numbers((2, 1))
    assert uniform_numbers((2**80, -1)) != uniform_numbers((2**80, 1))


def test_numbers_are_uniform_and_differ_between_keys():
    numbers = np.array([uniform_numbers((seed, key)) for seed in range(2) for key in range(1000)])
    assert np.abs(numbers.mean(0) - 0.5).max() < 0.03
    assert np.abs(numbers.var(0) - 1 / 12).max() < 0.005
    assert np.abs(np.corrcoef(numbers.T) - np.eye(numbers.shape[1])).max() < 0.12
    assert len(np.unique(numbers[:, 0])) == 2000


def test_survives_the_way_to_a_worker():
    transform = ImageTransform(24, "random", flip=True, scale=(0.5, 0.9))
    image = smooth(50, 70)
    assert torch.equal(pickle.loads(pickle.dumps(transform))([image], (1,))[0], transform([image], (1,))[0])


def test_central_square():
    assert central_box(5, 9, (64, 64)) == (0, 2, 5, 5)
    assert central_box(8, 3, (1, 1)) == (2, 0, 3, 3)


@pytest.mark.parametrize("size", [(32, 64), (50, 20), (17, 100)])
@pytest.mark.parametrize(("height", "width"), [(96, 128), (131, 90), (64, 64), (20, 300)])
def test_center_of_a_rectangle_is_resized_with_antialias(height, width, size):
    image = smooth(height, width)
    (got,) = ImageTransform(size)([image])
    h, w = (height, round(height * size[1] / size[0])) if height * size[1] <= width * size[0] else (None, width)
    h = h or round(width * size[0] / size[1])
    left, top = (width - w) // 2, (height - h) // 2
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((left, top, left + w, top + h))
    reference = np.array(picture.resize(size[::-1], Image.Resampling.BILINEAR))
    assert distance(got, torch.from_numpy(reference).permute(2, 0, 1)) <= 1


def test_center_of_a_rectangle_is_the_usual_crop():
    """torchvision's CenterCrop, where no edge is rounded and nothing is resized."""
    for image, size in (
        (positions(64, 200), (64, 128)),
        (positions(200, 60), (120, 60)),
        (positions(64, 64), (64, 32)),
    ):
        assert torch.equal(ImageTransform(size)([image])[0], v2.CenterCrop(size)(image))


@pytest.mark.parametrize("size", [(32, 64), (64, 32), (32, 47)])
def test_a_padded_square_stands_in_the_middle_of_a_rectangle(size):
    """As it is in its own square, the background beside it."""
    image, edge = smooth(90, 90), min(size)
    (got,) = ImageTransform(size, "none", background=(1, 2, 3))([image])
    (square,) = ImageTransform(edge, "none")([image])
    top, left = (size[0] - edge) // 2, (size[1] - edge) // 2
    expected = torch.tensor([1, 2, 3], dtype=torch.uint8)[:, None, None].repeat(1, *size)
    expected[:, top : top + edge, left : left + edge] = square
    assert torch.equal(got, expected)


def test_a_picture_of_the_shape_is_neither_cut_nor_padded():
    image = smooth(60, 120)
    expected = v2.functional.resize(image, [30, 60], antialias=True)
    for crop in ("center", "none"):
        assert torch.equal(ImageTransform((30, 60), crop)([image])[0], expected)
        assert ImageTransform((60, 120), crop)([image])[0].data_ptr() == image.data_ptr()


def test_random_crops_of_a_stretched_picture_are_stretched():
    """Twice as wide a picture for twice as wide a result: the same part of it, to the pixel that is rounded."""
    square, wide = (ImageTransform(size, "random", scale=(0.3, 0.6)) for size in (64, (64, 128)))
    narrow, broad = boxes(square, 300, 300, 200), boxes(wide, 300, 600, 200)
    assert (np.abs(broad - narrow * [1, 2, 1, 2]) <= [1, 3, 1, 1]).all()


def test_random_crops_of_a_rectangle_have_torchvisions_distribution():
    """RandomResizedCrop with the ratios of the result's own shape: area and logarithm of the ratio."""
    height, width, size, ratio = 200, 500, (64, 128), (0.8, 1.25)
    transform = ImageTransform(size, "random", scale=(0.3, 0.5), ratio=ratio)
    top, left, h, w = boxes(transform, height, width, 2000).T
    theirs = v2.RandomResizedCrop(size, scale=(0.3, 0.5), ratio=[2 * bound for bound in ratio])
    drawn = [theirs.make_params([torch.empty(3, height, width)]) for _ in range(2000)]
    other = np.array([[d["top"], d["left"], d["height"], d["width"]] for d in drawn]).T
    for ours, published in ((h * w, other[2] * other[3]), (np.log(w / h), np.log(other[3] / other[2]))):
        assert abs(ours.mean() - published.mean()) < 0.1 * published.std()
        assert abs(ours.std() / published.std() - 1) < 0.1
    assert abs(np.log(w / h).mean() - np.log(2)) < 0.01
    for start, free, their_start, their_free in (
        (top, height - h, other[0], height - other[2]),
        (left, width - w, other[1], width - other[3]),
    ):
        assert abs((start / free).mean() - (their_start / their_free).mean()) < 0.05


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("shape", [(1, 60_000), (60_000, 1), (1, 1), (3, 7)])
def test_any_picture_becomes_a_rectangle(crop, shape):
    for size in ((8, 24), (24, 8)):
        (got,) = ImageTransform(size, crop, flip=True)([torch.full((3, *shape), 9, dtype=torch.uint8)], (0,))
        assert got.shape == (3, *size)
        assert 9 in got


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"size": 0}, "size=0"),
        ({"size": 64.0}, r"size=64\.0"),
        ({"size": True}, "size=True"),
        ({"size": (8, 0)}, r"size=\(8, 0\): give one whole number from 1, for a square, or \[height, width\]"),
        ({"size": (8, 8, 3)}, r"size=\(8, 8, 3\)"),
        ({"size": 8, "crop": "middle"}, "crop='middle': use one of center, random, none"),
        ({"size": 8, "scale": (0, 1)}, "scale="),
        ({"size": 8, "scale": (0.5, 1.5)}, "scale="),
        ({"size": 8, "scale": (0.9, 0.5)}, "scale="),
        ({"size": 8, "ratio": (0.5,)}, "ratio="),
        ({"size": 8, "background": (0, 0)}, "background="),
        ({"size": 8, "background": (0, 0, 256)}, "background="),
    ],
)
def test_bad_options_get_one_line(options, names):
    with pytest.raises(ValueError, match=names) as caught:
        ImageTransform(**options)
    assert "\n" not in str(caught.value)
