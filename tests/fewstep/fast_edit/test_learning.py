"""Losses of a batch: noise, sources that are looked at once and never mistaken, what estimates are compared with."""

import math

import pytest
import torch

from fewstep.fast_edit.direction.edit_loss import EditLoss, EditLossOptions
from fewstep.fast_edit.direction.text_direction import text_direction
from fewstep.fast_edit.direction.views import Views
from fewstep.fast_edit.encoding import Encoder, Encoding
from fewstep.fast_edit.estimates import GradientMode, estimates, pass_rng
from fewstep.fast_edit.learning import EditLearning, LearningOptions
from fewstep.fast_edit.tuned import TunedAdapters
from tests.tiny_clip import tiny_clip
from tests.tiny_edit_base import Calls, base, pictures, trained

KEYS, ENCODING = ["a", "b"], Encoding(0.3)
MODES = {
    "one_step": GradientMode("one_step"),
    "random_t": GradientMode("random_t", t_lo=0.1),
    "last_k": GradientMode("last_k", 3, 1),
    "eff": GradientMode("eff", 3),
    "full": GradientMode("full", 3),
}


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


def learning(clip, tuned=None, views=1, seed=0, **options):
    direction = text_direction(clip, "face", "face with glasses", "plain")
    loss = EditLoss([clip], [direction], EditLossOptions(views=Views(views)))
    tuned = trained(TunedAdapters(base(), ["edit"])) if tuned is None else tuned
    return EditLearning(tuned, "edit", loss, LearningOptions(**{"encoding": ENCODING, **options}), seed)


def totals(source, number=0, data=None, keys=KEYS):
    return [losses.total for losses in source.losses(pictures() if data is None else data, keys, number)]


@pytest.mark.parametrize("mode", MODES)
def test_they_are_the_losses_of_the_estimates_against_the_sources(clip, mode):
    source = learning(clip, gradient=MODES[mode])
    rng = pass_rng(0, KEYS, 4)
    made = estimates(source.tuned, "edit", pictures(), Encoder(source.tuned.base, ENCODING), rng, MODES[mode])
    expected = [source.loss(picture, pictures(), source.loss.reference(pictures())).total for picture, _ in made]
    found = totals(source, 4)
    assert len(found) == MODES[mode].updates
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("views", [1, 3])
def test_every_pass_has_noise_of_its_own_and_can_be_repeated(clip, views):
    source, again = learning(clip, views=views), learning(clip, views=views)
    first, second = totals(source, 0)[0], totals(source, 1)[0]
    assert not torch.equal(first, second)
    assert torch.equal(totals(again, 1)[0], second)
    assert torch.equal(totals(again, 0)[0], first)
    assert not torch.equal(totals(learning(clip, views=views, seed=1), 0)[0], first)


def test_a_batch_may_be_of_any_size(clip):
    """The noise is the key's, wherever a picture stands."""
    source, data = learning(clip), pictures(3)
    together = totals(source, 0, data, ["a", "b", "c"])[0]
    torch.testing.assert_close(totals(source, 0, data[[2]], ["c"])[0], together[2:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["stochastic", "ddim"])
def test_a_name_never_brings_back_another_picture(clip, kind):
    """Defect 1 of the authors' code: a second photo under the same settings was the first one again."""
    encoding = Encoding(0.3, kind, 2)
    source, fresh, other = learning(clip, encoding=encoding), learning(clip, encoding=encoding), pictures(seed=7)
    totals(source)
    assert torch.equal(totals(source, 0, other)[0], totals(fresh, 0, other)[0])


def test_sources_are_looked_at_once_and_without_gradient(clip, monkeypatch):
    """Defect 2: the authors' code looked at them in every update, with gradient, and gradients piled up in CLIP."""
    source, seen = learning(clip), []
    embed = clip.model.encode_image

    def watched(pixels):
        seen.append((len(pixels), pixels.requires_grad))
        return embed(pixels)

    monkeypatch.setattr(clip.model, "encode_image", watched)
    for number in range(3):
        for losses in source.losses(pictures(), KEYS, number):
            losses.total.sum().backward()
    assert seen == [(2, False), (2, True), (2, True), (2, True)]
    assert all(weight.grad is None for weight in clip.parameters())
    assert all(weight.grad is not None for weight in source.tuned.parameters("edit"))


def test_features_that_are_kept_hold_no_batch(clip):
    source = learning(clip)
    totals(source, 0, pictures(4), list("abcd"))
    assert {kept.untyped_storage().nbytes() for kept in source._features.values()} == {
        kept.nbytes for kept in source._features.values()
    }


@pytest.mark.parametrize("mode", MODES)
def test_the_frozen_estimate_is_what_an_edit_is_that_changes_nothing(clip, mode):
    """So the direction is undefined and its cosine 0 (-log(1/2)), and nothing is left to the L1 term."""
    source = learning(clip, TunedAdapters(base(), ["edit"]), gradient=MODES[mode], reference="frozen_estimate")
    found = list(source.losses(pictures(), KEYS, 2))
    assert len(found) == MODES[mode].updates
    for losses in found:
        torch.testing.assert_close(losses.terms["l1"], torch.zeros(2), atol=1e-6, rtol=0)
        torch.testing.assert_close(losses.terms["direction"], torch.full((2,), math.log(2)), atol=1e-4, rtol=0)
        losses.total.sum().backward()
    steps = [weight.grad.abs().max() for weight in source.tuned.parameters("edit")[1::2]]  # B of each layer
    assert max(steps) > 0
    assert max(steps).isfinite()


@pytest.mark.parametrize(
    ("options", "each_pass", "once"),
    [
        ({}, 2, 0),
        ({"reference": "frozen_estimate"}, 4, 0),
        ({"gradient": MODES["eff"]}, 6, 0),
        ({"gradient": MODES["full"], "encoding": Encoding(0.3, "ddim", 4)}, 6, 8),
        ({"gradient": MODES["eff"], "reference": "frozen_estimate", "encoding": Encoding(0.3, "ddim", 4)}, 12, 8),
    ],
    ids=["one_step", "frozen", "eff", "full_ddim", "eff_ddim_frozen"],
)
def test_passes_are_those_that_the_network_made(clip, options, each_pass, once):
    """An encoding by DDIM is made once for a picture, however often it is learnt from."""
    source = learning(clip, **options)
    calls = Calls(source.tuned.base.network)
    for number in range(3):
        totals(source, number)
        assert source.passes == sum(calls.rows) == once + each_pass * (number + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "oracle"}, "reference='oracle': choose one of source, frozen_estimate"),
        ({"gradient": MODES["random_t"], "encoding": Encoding(0.3, "ddim")}, 'mode="random_t" noises pictures itself'),
    ],
)
def test_options_that_do_not_fit_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        LearningOptions(**options)


def test_an_edit_that_is_not_there(clip):
    source = learning(clip)
    with pytest.raises(ValueError, match="no edit is named 'hat'; choose one of edit"):
        EditLearning(source.tuned, "hat", source.loss)
