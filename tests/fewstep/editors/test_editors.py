"""Editors: what each must leave as it is, against solvers called by hand, and what they cost."""

import pytest
import torch

from commands.evaluate.pipeline import counted
from fewstep.backbones import load_latent_diffusion
from fewstep.diffusion.guidance import DynamicGuidance
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import DiscreteSchedule
from fewstep.diffusion.solvers import ddim, even_times
from fewstep.editors.edits import Edits
from fewstep.editors.named import NAMES, make_editor, wanted
from fewstep.editors.sdedit import sdedit
from fewstep.editors.style_pairs import style_pairs
from fewstep.icd.editing import Editing
from fewstep.icd.pair import InvertibleConsistency
from fewstep.rng import PerSampleRng
from tests.tiny_diffusion import CAPTIONS, batch, write_pipeline
from tests.tiny_export import write_export

STEPS = 5
OF_PIPELINES = ["ddim", "prompt_switch", "fixed_point", "null_prompt", "p2p", "sdedit", "flowedit"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_latent_diffusion(write_pipeline(tmp_path_factory.mktemp("models") / "pipeline", "sd_v"))


def edits(targets=("a green square", "a blue square", "a white square"), blend=None):
    made = batch(range(3))
    mask = torch.zeros(3, 1, 16, 16)
    mask[:, :, 4:9] = 1
    return Edits(
        made["image"], mask, CAPTIONS[:3], list(targets), made["key"], list(targets), list(blend or [None] * 3)
    )


UNCHANGED = edits(CAPTIONS[:3])


def through(model, asked):
    return model.latents.decode(model.latents.encode(asked.image))


def by_hand(model, asked, w, tau, captions=None):
    """DDIM up and down with both answers of classifier-free guidance at every step."""
    denoiser, times = model.denoiser(), even_times(STEPS)
    code = ddim(denoiser, model.parametrization, model.latents.encode(asked.image), times, model.prompts(asked.source))
    condition = model.prompts(captions or asked.target)
    found = ddim(denoiser, model.parametrization, code, times[::-1], condition, DynamicGuidance(w, tau))
    return model.latents.decode(found)


def made(name, model, steps=STEPS):
    return make_editor(name, model, steps)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)


def test_ddim_inversion_is_the_solver_both_ways(model):
    with torch.no_grad():
        edited = made("ddim", model)(edits())
        close(edited(4.0, 0.8), by_hand(model, edits(), 4.0, 0.8))
        close(edited(4.0, 1.0), by_hand(model, edits(), 4.0, 1.0))
    assert (edited(4.0, 1.0) - edited(4.0, 0.4)).abs().max() > 1e-3


def test_a_prompt_switch_is_ddim_from_tau_on_and_the_reconstruction_before(model):
    switch, plain = made("prompt_switch", model)(edits()), made("ddim", model)(edits())
    close(switch(4.0, 1.0), plain(4.0, 1.0))
    with torch.no_grad():
        close(switch(4.0, 0.1), by_hand(model, edits(), 1.0, 1.0, edits().source))  # the first time below is 0
    assert (switch(4.0, 0.6) - plain(4.0, 0.6)).abs().max() > 1e-3


def test_a_fixed_point_gives_back_what_nothing_changes(model):
    asked = UNCHANGED
    exact, plain = (made(name, model, 40)(asked)(1.0, 1.0) for name in ("fixed_point", "ddim"))
    errors = [(found - through(model, asked)).square().mean().sqrt().item() for found in (exact, plain)]
    assert errors[0] < 0.2 * errors[1], errors


def test_a_null_prompt_undoes_guidance_where_source_is_target(model):
    edited, plain = made("null_prompt", model)(UNCHANGED), made("ddim", model)(UNCHANGED)
    close(edited(12.0, 1.0), plain(1.0, 1.0))
    other = made("null_prompt", model)(edits())
    assert (other(12.0, 1.0) - other(1.0, 1.0)).abs().max() > 1e-3


def test_shared_attention_changes_nothing_where_source_is_target_and_an_edit_else(model):
    close(made("p2p", model)(UNCHANGED)(1.0, 1.0), made("ddim", model)(UNCHANGED)(1.0, 1.0))
    shared, alone = made("p2p", model)(edits())(4.0, 1.0), made("ddim", model)(edits())(4.0, 1.0)
    assert (shared - alone).abs().max() > 1e-3


def test_blend_words_reach_prompt_to_prompt_where_both_prompts_have_them(model):
    asked = edits(blend=[("red", "green"), ("cat", "dog"), None])
    plan = made("p2p", model).plan(asked)
    assert plan.blend_words == [(("red",), ("green",)), None, None]
    tokens = model.prompts.tokenizer(asked.target).input_ids
    assert plan.factors[0].max() == 2
    assert plan.factors[1:].max() == 1
    assert len(tokens[0]) <= model.prompts.length
    assert made("p2p", model).plan(edits()).blend_words is None
    assert made("p2p", model)(asked)(4.0, 1.0).shape == asked.image.shape


def test_sdedit_of_a_network_that_knows_the_noise_returns_the_data():
    parametrization = Parametrization(DiscreteSchedule(), "eps")
    data, noise = torch.randn(2, 2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    know = lambda x, t, w, condition: noise  # noqa: E731
    torch.testing.assert_close(sdedit(know, parametrization, data, noise, 0.6, 7, {}, 3.0), data, rtol=0, atol=1e-4)


def test_sdedit_forgets_more_the_earlier_it_begins(model):
    edited, floor = made("sdedit", model, 20)(edits()), through(model, edits())
    errors = [(edited(1.0, tau) - floor).square().mean().item() for tau in (0.003, 0.4, 0.9)]
    assert errors == sorted(errors)
    assert errors[0] < 0.2 * errors[-1]


def test_flowedit_leaves_what_is_not_to_change(model):
    close(made("flowedit", model)(UNCHANGED)(1.0, 0.8), through(model, UNCHANGED))
    assert (made("flowedit", model)(edits())(4.0, 0.8) - through(model, edits())).abs().max() > 1e-3


@pytest.mark.parametrize("name", OF_PIPELINES)
def test_an_edit_does_not_depend_on_its_batch(name, model):
    whole = made(name, model)(edits(), 3)(4.0, 0.6)
    alone = made(name, model)(edits()[[1]], 3)(4.0, 0.6)
    torch.testing.assert_close(alone, whole[1:2], rtol=0, atol=1e-3)
    if name in ("sdedit", "flowedit"):
        assert (made(name, model)(edits(), 4)(4.0, 0.6) - whole).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "once", "each"),
    [
        ("ddim", 5, 5 + 3),  # guided at 0.6, 0.4, 0.2 of 1, 0.8, 0.6, 0.4, 0.2
        ("prompt_switch", 5, 5 + 3),
        ("fixed_point", 5 * 6, 5 + 3),
        ("null_prompt", 5, 10),
        ("p2p", 5, 10 + 6),
        ("sdedit", 0, 2 * 3),
        ("flowedit", 0, 4 * 3),
    ],
)
def test_calls_are_those_that_the_editor_needs(name, once, each, model):
    with counted(model.network) as passes:
        edited = made(name, model)(edits())
        assert passes[0] == 3 * once
        edited(4.0, 0.6)
        assert passes[0] == 3 * (once + each)


def test_a_pair_edits_as_it_does_alone(tmp_path):
    pair = InvertibleConsistency.load(write_export(tmp_path))
    asked = edits()
    ways = {"icd": {}, "icd_switch": {"prompt_below": 0.6}, "icd_replay": {"replay": True}}
    for name, options in ways.items():
        rng = PerSampleRng(5, asked.key)
        how = Editing(guidance_scale=4.0, guided_below=0.6, **options)
        own = pair.edit(asked.image, asked.source, asked.target, rng, how)
        with counted(pair.model.network) as passes:
            torch.testing.assert_close(make_editor(name, pair, STEPS)(asked, 5)(4.0, 0.6), own)
        assert passes[0] == 3 * (4 + 4 * (2 if name == "icd_replay" else 1))
    editor = make_editor("icd_p2p", pair, STEPS)
    editor.check(12.0, 0.6)
    with pytest.raises(ValueError, match="guidance_scale 3 was not trained"):
        editor.check(3.0, 0.6)


def test_a_network_that_is_told_w_has_no_null_prompt_and_few_scales(tmp_path):
    pair = InvertibleConsistency.load(write_export(tmp_path))
    with pytest.raises(ValueError, match="null_prompt guides away from a prompt of its own"):
        make_editor("null_prompt", pair.model, STEPS)
    with pytest.raises(ValueError, match=r"flowedit guides the source by 1.6 at w 4, and the network knows 1, 4, 12"):
        make_editor("flowedit", pair.model, STEPS).check(4.0, 0.6)
    make_editor("flowedit", pair.model, STEPS).check(1.0, 0.6)


def test_names_are_checked():
    assert wanted("ddim") == ("ddim", None)
    assert wanted("icd_p2p=a/b=c") == ("icd_p2p", "a/b=c")
    with pytest.raises(ValueError, match=r"unknown editor 'sdedti'; the nearest is 'sdedit'"):
        wanted("sdedti")
    with pytest.raises(ValueError, match="give icd=EXPORT"):
        wanted("icd")
    with pytest.raises(ValueError, match="names no folder"):
        wanted("ddim=")
    assert set(OF_PIPELINES) < set(NAMES)


def test_pairs_of_styles_share_a_concept_and_take_turns():
    concepts = [str(number) for number in range(12) for _ in range(3)]
    styles = ["a", "b", "c"] * 12
    pairs = style_pairs(concepts, styles)
    assert len(pairs) == 12
    assert all(concepts[one] == concepts[other] for one, other in pairs)
    ways = [(styles[one], styles[other]) for one, other in pairs]
    assert sorted(ways.count(way) for way in set(ways)) == [2] * 6
    assert style_pairs(["x", "y"], ["a", "b"]) == []
