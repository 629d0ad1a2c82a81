"""One seed and one thread: matrices are small here, and threads that wait for one another would cost minutes."""

import os
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
os.environ.setdefault("FEWSTEP_TRUST", "tests,benchmarks")  # whose tiny modules stand in configs
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read once, when a test first profiles; see flop_count.py

import numpy as np
import pytest
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: what a test draws without a generator does not depend on the tests before it.

    Python's own `random` stays as it is: the moments of kills shall differ.
    """
    seed = int(os.environ.get("TEST_SEED", "0"))
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.fixture
def below(record_property: Callable[[str, float], None]) -> Callable[[str, float, float], None]:
    """below(name, value, bound): what a training reached, and the share of its bound that it takes, for all to see.

    benchmarks/reliability/training_tests.py prints the largest share over seeds, threads and kernels.
    """

    def check(name: str, value: float, bound: float) -> None:
        record_property(name, float(value / bound))
        assert value < bound, f"{name}: {value} is not below {bound}"

    return check
