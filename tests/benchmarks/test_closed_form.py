"""The two rows that need no training: density against scipy, samples against their moments, and the runner on them."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from benchmarks.ot_conditional import run
from benchmarks.ot_conditional.closed_form import ClosedForm
from benchmarks.ot_conditional.methods import METHODS


@pytest.fixture(params=["ridge", "joint"])
def fitted(request):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator)
    y = x[:, :2] * 2 + 0.3 * torch.randn(40, 2, generator=generator) + 1
    model = ClosedForm(request.param)
    model.start(x, y, x, y)
    return model, x, y


def test_density_and_samples_are_of_one_gaussian(fitted):
    model, x, y = fitted
    weight, bias, covariance = model.model
    mean = (x.double() @ weight.T + bias).numpy()
    expected = [multivariate_normal(m, covariance.numpy()).logpdf(row) for m, row in zip(mean, y.numpy(), strict=True)]
    np.testing.assert_allclose(model.log_density(y, x), expected, rtol=1e-4, atol=1e-4)
    torch.manual_seed(0)
    sample = model.sample(x[:1].expand(20000, -1)).double()
    error = sample.std(0) / math.sqrt(20000)
    assert ((sample.mean(0) - torch.from_numpy(mean[0])).abs() < 4 * error).all()
    torch.testing.assert_close(sample.T.cov(), covariance, rtol=0.05, atol=0.02)


def test_an_unfitted_one_says_so():
    with pytest.raises(ValueError, match="call start"):
        ClosedForm("ridge").log_density(torch.zeros(1, 2), torch.zeros(1, 3))


def test_the_runner_measures_closed_forms_and_models_that_leave_pairs_out(monkeypatch):
    """The default for few steps: its average keeps what it has kept, and no step can worsen the left-out likelihood."""
    monkeypatch.setattr(run, "EVALUATIONS", 2)
    monkeypatch.setattr(run, "distances", lambda model, rows: {})
    result = run.one_run(("swiss_roll", "ridge", 32, 0))
    assert 2.4 < result["selected"]["nll"] == result["final"]["nll"] < 3
    default = METHODS["default"]

    def short(data, num_pairs):
        recipe = default(data, num_pairs)
        recipe.steps = 6
        return recipe

    monkeypatch.setitem(METHODS, "default", short)
    result = run.one_run(("swiss_roll", "default", 32, 0))
    assert result["step"] in (3, 6)
    assert result["selected"]["nll"] < 3.2
