import math

import pytest
import torch
from scipy import stats

from commands.report.comparison import by_task, difference

NAME = "test/nll"


def run(values=None, half=None, data=None, mean=None, **more):
    mean = torch.tensor(values).mean().item() if mean is None else mean
    found = {"metrics": {NAME: mean}, "intervals": {}, "data": data or {"init_args": {"path": "x"}}}
    found |= {"rows": {NAME: values}} if values is not None else {}
    return found | ({"intervals": {NAME: [mean - half, mean + half]}} if half is not None else {}) | more


def noisy(num=400, shift=0.1):
    """Two runs whose rows vary together far more than they differ."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(num, generator=generator, dtype=torch.float64)
    own = 0.1 * torch.randn(2, num, generator=generator, dtype=torch.float64)
    return (common + own[0]).tolist(), (common + own[1] + shift).tolist()


def test_rows_in_pairs_against_students_interval():
    first, second = noisy()
    found = difference(run(second), run(first), NAME)
    paired = stats.ttest_rel(second, first).confidence_interval()
    assert found.paired
    assert found.clear
    assert found.value == pytest.approx(torch.tensor(second).sub(torch.tensor(first)).mean().item(), abs=1e-6)
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high), abs=0.002)


def test_the_same_rows_without_pairs_are_not_told_apart():
    first, second = noisy()
    half = 1.96 / math.sqrt(400)
    runs = [run(mean=sum(values) / 400, half=half) for values in (first, second)]
    found = difference(*runs, NAME)
    assert not found.paired
    assert not found.clear
    assert found.high - found.low == pytest.approx(2 * math.sqrt(2) * half)


@pytest.mark.parametrize(
    ("more", "paired"),
    [
        ({}, True),
        ({"data": {"init_args": {"path": "x", "num_pairs": 32, "splits": {"num_val": 3}}}}, True),
        ({"data": {"init_args": {"path": "x", "splits": {"num_test": 3}}}}, False),
        ({"data": {"init_args": {"path": "y"}}}, False),
        ({"mean": 7.0}, False),  # the number is no mean of these rows
        ({"values": [1.0, 2.0]}, False),
    ],
)
def test_rows_pair_only_where_they_are_the_same(more, paired):
    values = [1.0, 2.0, 4.0]
    other = run(**{"values": values, "half": 0.1} | more)
    assert difference(run(values, half=0.1), other, NAME).paired == paired


def test_influences_of_a_distance_in_pairs():
    """Of a mean the influence of a sample is its value less the mean, so both ways agree."""
    first, second = (torch.tensor(values) for values in noisy())
    means = [values.mean().item() for values in (first, second)]
    apart = [(values - mean).tolist() for values, mean in zip((first, second), means, strict=True)]
    by_influence = [run(mean=mean, influence={NAME: each}) for mean, each in zip(means, apart, strict=True)]
    by_rows = [run(values.tolist()) for values in (first, second)]
    assert difference(*by_influence, NAME)[:3] == pytest.approx(difference(*by_rows, NAME)[:3], abs=0.002)


def test_unknown_values_have_no_difference():
    assert difference(run(mean=1.0), run(mean=2.0, half=0.1), NAME) is None
    missing = run(mean=1.0, half=0.1) | {"metrics": {NAME: None}}
    assert difference(missing, run(mean=2.0, half=0.1), NAME) is None


def test_tasks_are_what_is_tested():
    data = [{"path": "x", "batch_size": 4}, {"path": "y"}, {"path": "x", "batch_size": 8, "num_workers": 2}]
    assert by_task([run(mean=1.0, data={"init_args": each}) for each in data]) == [[0, 2], [1]]
