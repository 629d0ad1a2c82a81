"""Routers that are fitted: against refits, against known gains, and against chance where there is nothing to learn."""

import json

import pytest
import torch
from sklearn.linear_model import Ridge

from fewstep.collaboration.learned_routing import PENALTIES, GainRouter, left_out_errors, pooled_prompts, table
from fewstep.collaboration.routing import budget_threshold
from tests.tiny_diffusion import CAPTIONS, write_pipeline

ABOUT = {"student": "0123", "oracle": "clip 4567"}


def normal(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drafts(num, seed=0):
    """{feature: values}: what a router may be told of drafts."""
    score, agreement, lengths, attributes = normal(num, 6, seed=seed).split([1, 1, 1, 3], 1)
    return {"score": score[:, 0], "agreement": agreement[:, 0], "length": 5 + lengths[:, 0], "attribute": attributes}


def test_a_linear_gain_is_found():
    columns = drafts(200)
    gain = 2 - 3 * columns["score"] + 0.5 * columns["attribute"][:, 1]
    router = GainRouter.fit(columns, gain, ABOUT)
    assert router.names == ("score", "agreement", "length", "attribute 0", "attribute 1", "attribute 2")
    assert router.penalty == PENALTIES[0]
    assert router.explained > 0.999
    fresh = drafts(50, seed=1)
    expected = 2 - 3 * fresh["score"] + 0.5 * fresh["attribute"][:, 1]
    torch.testing.assert_close(router.gain(fresh), expected, atol=5e-3, rtol=0)
    torch.testing.assert_close(router.score(fresh), -router.gain(fresh))


@pytest.mark.parametrize(("num", "features"), [(40, 5), (12, 30)])
def test_errors_of_leaving_one_out_are_those_of_refits(num, features):
    """Also with more features than rows; each refit by scikit-learn, with its own intercept."""
    design, gain = normal(num, features), normal(num, seed=1)
    design = design - design.mean(0)
    penalties = (1e-3, 0.1, 10.0)
    found = left_out_errors(design, gain, penalties)
    for row, penalty in zip(found, penalties, strict=True):
        for left in range(num):
            kept = [place for place in range(num) if place != left]
            refit = Ridge(alpha=penalty * num, solver="svd").fit(design[kept].numpy(), gain[kept].numpy())
            told = gain[left].item() - refit.predict(design[left : left + 1].numpy())[0]
            assert row[left].item() == pytest.approx(told, rel=1e-6, abs=1e-8)


def test_the_penalty_is_that_with_the_least_left_out_error_and_its_share_is_told():
    columns, noise = drafts(60), normal(60, seed=3)
    gain = columns["score"] + 2 * noise
    router = GainRouter.fit(columns, gain, ABOUT)
    features, _ = table(columns)
    design = (features - features.mean(0)) / features.std(0, correction=0)
    errors = left_out_errors(design, gain, PENALTIES).square().mean(1)
    assert router.penalty == PENALTIES[errors.argmin()]
    assert PENALTIES[0] < router.penalty < PENALTIES[-1]
    alone = torch.stack([gain[place] - gain[torch.arange(60) != place].mean() for place in range(60)])
    assert router.explained == pytest.approx(1 - (errors.min() / alone.square().mean()).item())
    refit = Ridge(alpha=router.penalty * 60).fit(design.numpy(), gain.numpy())
    torch.testing.assert_close(router.weights, torch.tensor(refit.coef_, dtype=torch.float64))


def won_by(columns, gain, score, share=0.4):
    """Mean gain of repairing what the threshold of fresh calibration prompts defers, less that of as many by chance."""
    threshold = budget_threshold(score(columns[0]), share)
    deferred = score(columns[1]) < threshold
    assert deferred.double().mean().item() == pytest.approx(share, abs=0.06)
    return (gain * (deferred.double() - deferred.double().mean())).mean().item()


def test_a_router_beats_chance_where_gain_depends_on_features_and_only_there():
    """Gain of 1/2 for what is deferred: E[|z|] / 2 of a normal z is the most that there is to win at a half."""
    train, calibration, new = (drafts(2000, seed) for seed in range(3))
    noises = normal(2, 2000, seed=5)

    def true_gain(columns, noise):
        return 0.3 + 0.6 * columns["agreement"] - 0.8 * columns["attribute"][:, 0] + 2 * noise

    router = GainRouter.fit(train, true_gain(train, noises[0]), ABOUT)
    error = 2.3 / 2000**0.5
    best = 0.3863  # of a standard normal, its density at the quantile 0.4
    won = won_by((calibration, new), true_gain(new, noises[1]), router.score)
    assert won == pytest.approx(best, abs=4 * error)
    by_score = won_by((calibration, new), true_gain(new, noises[1]), lambda columns: columns["score"])
    assert abs(by_score) < 4 * error  # the oracle's score alone tells nothing here
    blind = GainRouter.fit(train, noises[0], ABOUT)
    assert blind.explained < 0.01
    assert abs(won_by((calibration, new), noises[1], blind.score)) < 4 / 2000**0.5


def test_a_constant_feature_has_no_say():
    columns = drafts(50) | {"nothing": torch.full((50,), 0.1)}
    router = GainRouter.fit(columns, columns["score"], ABOUT)
    assert router.weights[router.names.index("nothing")] == 0
    moved = columns | {"nothing": torch.full((50,), 9.0)}
    torch.testing.assert_close(router.gain(moved), router.gain(columns))


@pytest.mark.parametrize("kind", ["sd_v", "sdxl"])
def test_a_router_of_the_prompt_alone(kind, tmp_path):
    """What is hard is told by the prompt: the teacher gains where it says green."""
    from fewstep.backbones import load_latent_diffusion

    encoder = load_latent_diffusion(write_pipeline(tmp_path / "pipeline", kind)).prompts
    pooled = pooled_prompts(encoder(CAPTIONS))
    assert pooled.shape == (4, encoder.width if kind == "sd_v" else encoder.pooled_width)
    green = torch.tensor([float("green" in caption) for caption in CAPTIONS])
    colours = torch.arange(80) % 4
    gain = green[colours] + 0.1 * normal(80).float()
    router = GainRouter.fit({"prompt": pooled[colours]}, gain, ABOUT)
    torch.testing.assert_close(router.gain({"prompt": pooled}).float(), green, atol=0.15, rtol=0)
    assert router.score({"prompt": pooled}).argmin() == green.argmax()  # low is needy


def test_what_is_saved_is_read_again_and_refused_for_something_else(tmp_path):
    columns = drafts(30)
    router = GainRouter.fit(columns, columns["score"] + normal(30, seed=1), ABOUT)
    router.save(tmp_path / "new" / "router.json")
    again = GainRouter.load(tmp_path / "new" / "router.json")
    assert torch.equal(again.score(columns), router.score(columns))
    assert (again.about, again.names, again.penalty) == (router.about, router.names, router.penalty)
    again.check(ABOUT)
    for other in (ABOUT | {"oracle": "clip 89ab"}, {"student": "0123"}, ABOUT | {"solver": "ddim"}):
        with pytest.raises(ValueError, match=r"the router is of (oracle|solver) .*; fit it again"):
            again.check(other)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 2}, "schema 2 with 6 features"),
        ({"weights": [1.0]}, "with 1 and 6 features"),
        ({"scales": [0.0] * 6}, r"scales\[0\] is 0.0, expected a positive number"),
        ({"weights": ["1"] * 6}, r"weights\[0\] is '1', expected a number"),
        ({"names": None}, "names is None, expected a list"),
        ({"about": {"a": 1}}, "about.a is 1, expected a text"),
        ({"intercept": None}, "intercept is None"),
        ({"names": [], "centers": [], "scales": [], "weights": []}, "schema 1 with 0 features"),
    ],
)
def test_a_file_of_somebody_else_is_one_line(tmp_path, change, told):
    file = tmp_path / "router.json"
    GainRouter.fit(drafts(30), normal(30), ABOUT).save(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=rf"cannot read the router .*{told}.*; fit it again") as caught:
        GainRouter.load(file)
    assert "\n" not in str(caught.value)
    for content in ("[]", "{", "{}", '{"schema": 1e999}'):
        file.write_text(content)
        with pytest.raises(ValueError, match="cannot read the router"):
            GainRouter.load(file)
    with pytest.raises(ValueError, match="cannot read the router"):
        GainRouter.load(tmp_path / "none.json")


def test_features_that_do_not_fit_are_said():
    columns = drafts(30)
    router = GainRouter.fit(columns, normal(30), ABOUT)
    less = {name: column for name, column in columns.items() if name != "agreement"}
    for call, told in (
        (lambda: router.gain(less), "features differ from those of the router in agreement"),
        (lambda: router.gain(dict(reversed(columns.items()))), "in the order"),
        (lambda: table({}), "no features are given"),
        (lambda: table({"a": torch.zeros(3), "b": torch.zeros(4)}), "feature 'b' has 4 rows, 'a' has 3"),
        (lambda: table({"a": torch.full((3,), torch.nan)}), "feature 'a' of shape"),
        (lambda: table({"a": torch.zeros(3, 2, 2)}), "feature 'a' of shape"),
        (lambda: GainRouter.fit(columns, normal(29), ABOUT), r"gains of shape \[29\] for 30 rows"),
        (lambda: GainRouter.fit(columns, normal(30) * torch.inf, ABOUT), "gains of shape"),
    ):
        with pytest.raises(ValueError, match=told):
            call()
