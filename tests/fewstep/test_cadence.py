import pytest

from fewstep.cadence import due


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_one_step_of_every_so_many_is_due(every):
    assert [step for step in range(1, 43) if due(step, every)] == list(range(every, 43, every))


def test_zero_is_never():
    assert not any(due(step, 0) for step in range(20))
