"""The closed forms against scikit-learn ridge with each row left out in turn, and EM against BFGS."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.linear_model import Ridge

from fewstep.transport.gaussian import PENALTIES, fit_joint, fit_ridge, imagined_pairs, joint_conditionals

TRUE = torch.tensor([[1.0, -0.5, 0.2], [0.3, 0.0, 0.8]], dtype=torch.float64)


def draw(num, seed=0, noise=0.5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 3, generator=generator, dtype=torch.float64) @ torch.tensor(
        [[1.0, 0.4, 0.0], [0.0, 0.8, 0.0], [0.0, 0.3, 1.2]], dtype=torch.float64
    )
    return x + 1, x @ TRUE.T + noise * torch.randn(num, 2, generator=generator, dtype=torch.float64) + 2


def test_ridge_is_scikit_learns_and_its_covariance_is_that_of_rows_left_out():
    x, y = draw(15)
    model = fit_ridge(x, y)
    fits = {}
    for penalty in PENALTIES:
        alone = Ridge(len(x) * penalty)
        missed = []
        for row in range(len(x)):  # the penalty is per pair of the whole, so it stays when one is left out
            rest = np.arange(len(x)) != row
            missed.append((y[row] - alone.fit(x[rest], y[rest]).predict(x[row : row + 1])[0]).numpy())
        fits[penalty] = np.array(missed).T @ np.array(missed) / len(x)
    best = min(PENALTIES, key=lambda penalty: np.linalg.det(fits[penalty]))
    np.testing.assert_allclose(model.covariance, fits[best], rtol=2e-5, atol=1e-5)
    whole = Ridge(len(x) * best).fit(x, y)
    np.testing.assert_allclose(model.weight, whole.coef_, rtol=1e-8)
    np.testing.assert_allclose(model.bias, whole.intercept_, rtol=1e-8)


def test_density_is_scipys():
    x, y = draw(30)
    model = fit_ridge(x, y)
    mean = (x @ model.weight.T + model.bias).numpy()
    expected = [multivariate_normal(m, model.covariance.numpy()).logpdf(row) for m, row in zip(mean, y, strict=True)]
    np.testing.assert_allclose(model.log_density(y, x), expected, rtol=1e-10)


def observed_likelihood(mean, covariance, x, y, x_unpaired, y_unpaired):
    dim = x.shape[1]
    parts = [(np.hstack([x, y]), slice(None)), (x_unpaired, slice(None, dim)), (y_unpaired, slice(dim, None))]
    return sum(multivariate_normal(mean[s], covariance[s, s]).logpdf(rows).sum() for rows, s in parts)


def test_em_finds_the_maximum_of_the_observed_likelihood():
    """In one dimension a side, against BFGS on the five parameters from another start."""
    x, y = (side[:, :1] for side in draw(12))
    x_unpaired, y_unpaired = draw(40, 1)[0][:, :1], draw(60, 2)[1][:, :1]
    rows = [side.numpy() for side in (x, y, x_unpaired, y_unpaired)]

    def unpack(v):
        factor = np.array([[math.exp(v[2]), 0], [v[3], math.exp(v[4])]])
        return v[:2], factor @ factor.T

    found = minimize(lambda v: -observed_likelihood(*unpack(v), *rows), np.zeros(5), options={"gtol": 1e-6})
    mean, covariance = unpack(found.x)
    model = joint_conditionals(x, y, x_unpaired, y_unpaired, torch.ones(1, 12), [0.0])[0]
    slope = covariance[1, 0] / covariance[0, 0]
    assert model.weight.item() == pytest.approx(slope, abs=2e-3)
    assert model.bias.item() == pytest.approx(mean[1] - slope * mean[0], abs=4e-3)
    assert model.covariance.item() == pytest.approx(covariance[1, 1] - slope * covariance[0, 1], abs=2e-3)


def test_without_unpaired_rows_em_is_least_squares():
    x, y = draw(40)
    model = joint_conditionals(x, y, x[:0], y[:0], torch.ones(1, 40), [0.0])[0]
    design = torch.cat([x, torch.ones(40, 1)], 1)
    solution = torch.linalg.lstsq(design, y).solution
    torch.testing.assert_close(model.weight, solution[:3].T, rtol=1e-4, atol=1e-5)
    residual = y - design @ solution
    torch.testing.assert_close(model.covariance, residual.T @ residual / 40, rtol=1e-3, atol=1e-5)


def test_several_models_at_once_are_the_models_one_by_one():
    x, y = draw(20)
    x_unpaired, y_unpaired = draw(50, 1)[0], draw(50, 2)[1]
    used = torch.ones(2, 20)
    used[1, :8] = 0
    both = joint_conditionals(x, y, x_unpaired, y_unpaired, used, [0.0, 3.0])
    # a pair of weight zero still tells where its x and y lie, through the scale alone
    for model, rows, prior in zip(both, (slice(None), slice(8, None)), (0.0, 3.0), strict=True):
        alone = joint_conditionals(x[rows], y[rows], x_unpaired, y_unpaired, torch.ones(1, len(x[rows])), [prior])[0]
        torch.testing.assert_close(model.weight, alone.weight, rtol=0, atol=0.05)


def test_unpaired_rows_help_where_pairs_are_few():
    """Mean over 20 draws of 12 pairs: the joint Gaussian with 400 rows a side against the pairs alone."""
    gain = []
    for seed in range(20):
        x, y = draw(12, 10 + seed)
        x_unpaired, y_unpaired = draw(400, 50 + seed)[0], draw(400, 90 + seed)[1]
        test_x, test_y = draw(500, 1000 + seed)
        alone = joint_conditionals(x, y, x[:0], y[:0], torch.ones(1, 12), [0.0])[0]
        both = joint_conditionals(x, y, x_unpaired, y_unpaired, torch.ones(1, 12), [0.0])[0]
        gain.append((both.log_density(test_y, test_x) - alone.log_density(test_y, test_x)).mean().item())
    assert np.mean(gain) > 3 * np.std(gain) / math.sqrt(20)


def test_unrelated_sides_want_imagined_pairs_and_one_pair_is_enough_to_answer():
    x, _ = draw(16)
    _, y = draw(16, 5)
    x_unpaired, y_unpaired = draw(50, 1)[0], draw(50, 2)[1]
    assert imagined_pairs(x, y, x_unpaired, y_unpaired) > imagined_pairs(*draw(16, noise=0.05), x_unpaired, y_unpaired)
    for model in (fit_joint(x[:1], y[:1], x_unpaired, y_unpaired), fit_ridge(x[:1], y[:1])):
        assert model.log_density(y, x).isfinite().all()


def test_columns_that_are_constant_among_the_pairs_do_not_end_the_fit():
    x, y = draw(10)
    x[:, 1], y[:, 0] = 3.0, 7.0
    x_unpaired, y_unpaired = draw(50, 1)[0], draw(50, 2)[1]
    for model in (fit_joint(x, y, x_unpaired, y_unpaired), fit_ridge(x, y)):
        assert all(part.isfinite().all() for part in model)
        assert torch.linalg.eigvalsh(model.covariance).min() > 0
