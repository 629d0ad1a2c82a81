"""One seed and one thread: matrices are small here, and threads that wait for one another would cost minutes."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read once, when a test first profiles; see flop_count.py

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: what a test draws without a generator does not depend on the tests before it.

    Python's own `random` stays as it is: the moments of kills shall differ.
    """
    np.random.seed(0)
    torch.manual_seed(0)
