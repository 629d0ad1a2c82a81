import pytest
import torch

from fewstep.metrics.precision_recall import precision_recall_density_coverage as prdc

torch.set_num_threads(1)


def features(num, dims=5, seed=0, shift=0.0, scale=1.0):
    return scale * torch.randn(num, dims, generator=torch.Generator().manual_seed(seed)) + shift


def brute_force(real, fake, k):
    """Naeem et al. 2020, Eqs. 3-6, on full distance matrices of scikit-learn."""
    from sklearn.metrics import pairwise_distances

    real_radii, fake_radii = (pairwise_distances(side).__array__() for side in (real, fake))
    real_radii.sort(1), fake_radii.sort(1)
    real_radii, fake_radii = real_radii[:, k], fake_radii[:, k]
    between = pairwise_distances(real, fake)
    inside = between <= real_radii[:, None]
    return {
        "precision": inside.any(0).mean(),
        "recall": (between <= fake_radii[None]).any(1).mean(),
        "density": inside.sum(0).mean() / k,
        "coverage": (between.min(1) <= real_radii).mean(),
    }


@pytest.mark.parametrize(("k", "shift", "scale"), [(1, 0.0, 1.0), (3, 0.8, 1.0), (5, 0.3, 0.4), (5, 500.0, 1.0)])
def test_equals_the_definition(monkeypatch, k, shift, scale):
    monkeypatch.setattr("fewstep.metrics.precision_recall.CHUNK", 37)
    real, fake = features(120), features(90, seed=1, shift=shift, scale=scale)
    assert prdc(real, fake, k) == pytest.approx(brute_force(real.double(), fake.double(), k), abs=1e-12)


def test_equals_torch_fidelity():
    fidelity = pytest.importorskip("torch_fidelity.metric_prc")
    real, fake = features(200), features(150, seed=1, shift=0.7)
    theirs = fidelity.prc_features_to_metric(fake, real, prc_neighborhood=3, verbose=False)
    ours = prdc(real, fake, 3)
    assert (ours["precision"], ours["recall"]) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)


def test_a_set_against_itself_scores_one_even_with_copies():
    real = torch.cat([features(30)] * 3) + 1000  # each point has two copies: balls of radius 0
    assert prdc(real, real, 2) == pytest.approx({"precision": 1, "recall": 1, "density": 1.5, "coverage": 1})


def test_a_generator_that_repeats_itself_has_precision_without_recall():
    real = features(300)
    repeated = real[:1] + features(300, seed=1, scale=1e-3)
    found = prdc(real, repeated)
    assert found["precision"] > 0.99
    assert found["recall"] < 0.05
    assert found["coverage"] < 0.1


def test_too_few_images_are_one_line():
    with pytest.raises(ValueError, match=r"5 neighbours need more than that many images .* got 5 real and 9 generated"):
        prdc(features(5), features(9))
    with pytest.raises(ValueError, match="finite"):
        prdc(features(9), features(9) * torch.nan)
