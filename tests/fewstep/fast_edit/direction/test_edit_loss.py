"""The whole objective against its parts put together by hand; defects that the authors' code has and this must not."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fewstep.augmentation import Augmentation
from fewstep.fast_edit.direction.edit_loss import EditLoss, EditLossOptions
from fewstep.fast_edit.direction.text_direction import text_direction
from fewstep.fast_edit.direction.views import Views
from tests.tiny_clip import tiny_clip

PLAIN = Views(1)
CHANGES = Views(4, Augmentation(shift=1, scale=0.05, contrast=0.1, noise=0.1))


@pytest.fixture(scope="module")
def clips():
    return [tiny_clip(0), tiny_clip(1, dim=12)]


def loss_of(clips, *networks, **options):
    directions = [text_direction(clip, "face", "face with glasses", "imagenet_small") for clip in clips]
    return EditLoss(clips, directions, EditLossOptions(**{"views": PLAIN, **options}), *networks)


def pictures(seed, count=3, spread=0.8):
    return (torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * spread


def features(images):
    """Of some other network."""
    return images.flatten(1)[:, ::7]


def distance(images, others):
    return (images - others).square().flatten(1).mean(1)


def gradient_of(loss, edit, source, **call):
    edit = edit.clone().requires_grad_()
    loss(edit, source, loss.reference(source), **call).total.sum().backward()
    return edit.grad


@pytest.mark.parametrize("form", ["log", "bare"])
def test_terms_are_those_of_two_clips_and_the_total_is_their_weighted_sum(clips, form):
    loss = loss_of(clips, distance, features, clip=2, l1=0.5, perceptual=0.25, identity=0.7, form=form, offset=1e-2)
    edit, source = pictures(0), pictures(1)
    total, terms = loss(edit, source, loss.reference(source))
    moved = []
    for clip, direction in zip(clips, loss.directions, strict=True):
        change = clip.embed_images(edit) - clip.embed_images(source)
        cosine = F.cosine_similarity(change, direction[None])
        moved.append(1 - cosine if form == "bare" else -((1 + cosine) / 2).log())
    expected = {
        "direction": (moved[0] + moved[1]) / 2,
        "l1": (edit - source).abs().mean((1, 2, 3)),
        "perceptual": distance(edit, source),
        "identity": 1 - F.cosine_similarity(features(edit), features(source)),
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=0, atol=2e-3)
    by_hand = 2 * terms["direction"] + 0.5 * terms["l1"] + 0.25 * terms["perceptual"] + 0.7 * terms["identity"]
    torch.testing.assert_close(total, by_hand)
    assert total.shape == (3,)


def test_towers_are_frozen_and_only_the_edit_gets_a_gradient(clips):
    """Defect 6.1-2: gradients of CLIP's own weights pile up there, update by update."""
    recogniser = nn.Conv2d(3, 4, 5)
    for parameter in (parameter for clip in clips for parameter in clip.parameters()):
        parameter.requires_grad_(True)
    loss = loss_of(clips, None, lambda images: recogniser(images).flatten(1), identity=1.0, views=CHANGES)
    module = loss_of(clips, None, recogniser, identity=1.0)
    edit, source = pictures(0).requires_grad_(), pictures(1).requires_grad_()
    known = loss.reference(source)
    assert not known.requires_grad
    loss(edit, source, known).total.sum().backward()
    assert (edit.grad.flatten(1).norm(dim=1) > 0).all()
    assert source.grad is None
    weights = [parameter for clip in clips for parameter in clip.parameters()]
    assert not any(weight.requires_grad or weight.grad is not None for weight in weights)
    assert not any(weight.requires_grad for weight in module.identity.parameters())


@pytest.mark.parametrize(("views", "edits", "sources"), [(PLAIN, 3, 0), (CHANGES, 12, 9)], ids=["one", "four"])
def test_a_plain_source_is_encoded_once_and_never_again(clips, views, edits, sources):
    loss = loss_of(clips[:1], views=views)
    edit, source = pictures(0), pictures(1)
    known = loss.reference(source)
    seen = []
    hook = clips[0].model.visual.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    for _ in range(2):
        loss(edit, source, known)
    hook.remove()
    assert sorted(seen) == sorted([size for size in (edits, sources) if size] * 2)


def test_colours_out_of_range_lower_no_loss(clips):
    """Defect 6.1-11."""
    loss = loss_of(clips, distance, features, l1=0, perceptual=1, identity=1, views=CHANGES)
    edit, source = pictures(0, spread=1.6), pictures(1)
    known = loss.reference(source)
    assert (edit.abs() > 1).float().mean() > 0.3
    torch.testing.assert_close(
        loss(edit, source, known, seed=3).total, loss(edit.clamp(-1, 1), source, known, seed=3).total
    )
    wild = source * 1.5  # as frozen one-step estimates are
    torch.testing.assert_close(loss.reference(wild), loss.reference(wild.clamp(-1, 1)))


def test_a_channel_out_of_range_does_not_silence_the_others(clips):
    loss = loss_of(clips, l1=0)
    source = pictures(1)
    edit = pictures(0)
    edit[:, 0] = 1.4
    gradient = gradient_of(loss, edit, source)
    assert (gradient[:, 1:].flatten(2).norm(dim=2) > 0).all()
    assert (gradient[:, 0] >= 0).all()  # descent can only bring it back
    assert (gradient[:, 0] > 0).any()


def test_steps_along_the_gradient_turn_pictures_into_the_direction(clips):
    loss = loss_of(clips, l1=0, views=CHANGES)
    source = pictures(1)
    edit, known = source.clone(), loss.reference(source)
    for _ in range(60):
        edit = edit - 0.03 * gradient_of(loss, edit, source).sign()
    before, after = (loss(images, source, known, seed=9).terms["direction"] for images in (source, edit))
    assert (after < before / 3).all()


def test_the_identity_term_reaches_the_edit():
    """DiffusionCLIP's efficient mode applies it to a detached picture, where it does nothing."""
    clips = [tiny_clip(0)]
    with_it, without = loss_of(clips, None, features, identity=1.0), loss_of(clips)
    edit, source = pictures(0), pictures(1)
    term = gradient_of(with_it, edit, source) - gradient_of(without, edit, source)
    images = edit.clone().requires_grad_()
    F.cosine_similarity(features(images), features(source)).neg().sum().backward()
    torch.testing.assert_close(term, images.grad, rtol=0, atol=1e-5)


def test_with_a_frozen_estimate_as_reference_the_first_step_is_finite_and_of_sane_size(clips):
    """The edit begins as its own reference, so the direction begins as 0."""
    loss = loss_of(clips, l1=0)
    source = pictures(1)
    value = loss(source, source, loss.reference(source)).terms["direction"]
    assert value.tolist() == pytest.approx([math.log(2)] * 3, abs=1e-4)
    first, later = (gradient_of(loss, images, source).norm().item() for images in (source, pictures(0)))
    assert 0 < first < 100 * later


def test_views_are_drawn_from_the_seed_and_alike_for_edit_and_source(clips):
    loss = loss_of(clips, views=CHANGES)
    edit, source = pictures(0), pictures(1)
    known = loss.reference(source)
    of_seed = [loss(edit, source, known, seed=seed).total for seed in (5, 5, 6)]
    assert torch.equal(of_seed[0], of_seed[1])
    assert not torch.equal(of_seed[0], of_seed[2])
    torch.manual_seed(0)
    drawn = [loss(edit, source, known).total for _ in range(2)]
    torch.manual_seed(0)
    assert torch.equal(loss(edit, source, known).total, drawn[0])
    assert not torch.equal(drawn[0], drawn[1])
    # Unedited pictures point nowhere in every view, which holds only if both ends were changed alike.
    still = loss(source, source, known).terms["direction"]
    assert still.tolist() == pytest.approx([math.log(2)] * 3, abs=1e-4)


def test_under_autocast_the_loss_stays_in_float32(clips):
    loss = loss_of(clips, views=CHANGES)
    edit, source = pictures(0), pictures(1)
    known = loss.reference(source)
    with torch.autocast("cpu", torch.bfloat16):
        lower = loss(edit, source, known, seed=1).total
    torch.testing.assert_close(lower, loss(edit, source, known, seed=1).total)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"clip": 0}, "loss.clip=0: must be above 0"),
        ({"l1": -1}, "loss.l1=-1: must be at least 0"),
        ({"form": "square"}, "loss.form='square'"),
        ({"offset": 1e-7}, "loss.offset=1e-07: must be at least 0.01"),
        ({"identity": 1.0}, "loss.identity=1.0 without a network"),
        ({"perceptual": 0.5}, "loss.perceptual=0.5 without a network"),
    ],
    ids=["clip", "l1", "form", "offset", "identity", "perceptual"],
)
def test_options_that_cannot_be_meant_are_one_line(clips, options, told):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        loss_of(clips, **options)
    assert told in str(error.value)


def test_networks_and_pictures_that_do_not_fit_are_one_line(clips):
    with pytest.raises(ValueError, match=r"loss.identity=0.0 with a network: give it a weight"):  # defect 6.1-6
        loss_of(clips, None, features)
    with pytest.raises(ValueError, match="2 CLIPs and 1 directions"):
        EditLoss(clips, [torch.zeros(8)], EditLossOptions())
    with pytest.raises(ValueError, match="0 CLIPs"):
        EditLoss([], [], EditLossOptions())
    with pytest.raises(ValueError, match="set differentiable=True"):
        EditLoss([tiny_clip(differentiable=False)], [torch.zeros(8)], EditLossOptions())
    loss = loss_of(clips)
    edit, known = pictures(0), loss.reference(pictures(1))
    with pytest.raises(ValueError, match=r"edit \[3, 3, 16, 16\] and source \[2, 3, 16, 16\]"):
        loss(edit, pictures(1, count=2), known)
    with pytest.raises(ValueError, match=r"features \[2, 20\]: \[3, 20\] needed"):
        loss(edit, pictures(1), known[:2])
