"""Published segment lookups, boundaries of the released adapters, and what is refused."""

import math

import pytest
import torch

from fewstep.diffusion.schedules import DiscreteSchedule, RectifiedFlow
from fewstep.distillation.boundaries import Boundaries
from tests.toy_students import of_timesteps

FOUR = Boundaries((0, 0.26, 0.52, 0.78, 1), 0.02)


def of_step(step):
    return (torch.as_tensor(step, dtype=torch.float32) + 1) / 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_published_lookup(dtype):
    """Training steps on the grid 19, 39, .., 999; the data are step -1 here."""
    reverse = {19: -1, 39: -1, 259: -1, 279: 259, 299: 259, 519: 259, 539: 519, 779: 519, 799: 779, 999: 779}
    forward = {19: 259, 239: 259, 259: 519, 499: 519, 519: 779, 759: 779, 779: 999, 979: 999}
    for table, lookup in ((reverse, FOUR.reverse_end), (forward, FOUR.forward_end)):
        found = lookup(of_step(list(table)).to(dtype))
        torch.testing.assert_close(found, of_step(list(table.values())).to(dtype))
        assert found.dtype == dtype


@pytest.mark.parametrize("direction", ["reverse", "forward"])
def test_lookup_is_the_authors_rule_on_the_whole_grid(direction):
    """Theirs: from t, the last E <= t - 20 or the first F >= t + 20 (E_0 = 0 stands for the data)."""
    for inner in ([259, 519, 779], [259, 519, 699], [339, 699], [499], []):
        boundaries = of_timesteps(inner)
        for t in range(19, 1000, 20):
            if direction == "reverse":
                expected = max(e for e in [-1, *inner] if e <= t - 20)
                found = boundaries.reverse_end(of_step([t]))
            elif t < 999:
                expected = min(f for f in [*inner, 999] if f >= t + 20)
                found = boundaries.forward_end(of_step([t]))
            torch.testing.assert_close(found, of_step([expected]))


def test_own_boundaries_are_used_not_the_default_ones():
    """One of the authors' scripts trained on 679 whatever it was given, and decoded from 699."""
    default, own = Boundaries.even(3), of_timesteps([339, 699])
    assert default.times == (0, 0.34, 0.68, 1)
    assert own.times == (0, 0.34, 0.7, 1)
    between = of_step([699])
    assert default.reverse_end(between).item() == pytest.approx(0.68)
    assert own.reverse_end(between).item() == pytest.approx(0.34)
    assert own.decode_times == (1, 0.7, 0.34, 0)
    assert own.encode_times == (0.02, 0.34, 0.7, 1)


def test_even_boundaries_are_the_authors_defaults():
    assert Boundaries.even(1).times == (0, 1)
    assert Boundaries.even(2).times == (0, 0.5, 1)
    assert Boundaries.even(4).times == FOUR.times
    assert Boundaries.even(4) == FOUR
    assert Boundaries.even(8).times == (0, 0.14, 0.28, 0.42, 0.56, 0.7, 0.84, 0.98, 1)


def test_boundaries_by_log_snr_agree_between_schedules():
    """Stable Diffusion's 19, 259, 519, 779 are 0.12, 0.42, 0.63, 0.82 of a rectified flow."""
    levels = DiscreteSchedule().log_snr(torch.tensor([0.02, 0.26, 0.52, 0.78], dtype=torch.float64)).tolist()
    assert Boundaries.from_log_snr(DiscreteSchedule(), levels[1:], levels[0]) == FOUR
    flow = Boundaries.from_log_snr(RectifiedFlow(), levels[1:], levels[0])
    assert flow == Boundaries((0, 0.42, 0.64, 0.82, 1), 0.12)
    exact = Boundaries.from_log_snr(RectifiedFlow(3), levels[1:], num_steps=None)
    u = torch.tensor(exact.times[1:-1])
    torch.testing.assert_close(3 * u / (1 + 2 * u), torch.tensor([0.418, 0.633, 0.823]), rtol=0, atol=6e-4)
    assert exact.start == 0


def test_segments_are_drawn_equally_often_and_the_first_begins_at_start():
    low, high = FOUR.draw_segment((torch.arange(4000) + 0.5) / 4000)
    pairs, counts = torch.stack([low, high], 1).unique(dim=0, return_counts=True)
    torch.testing.assert_close(pairs, torch.tensor([[0.02, 0.26], [0.26, 0.52], [0.52, 0.78], [0.78, 1]]))
    assert counts.tolist() == [1000] * 4


def test_both_ends_of_the_first_segment_agree_without_a_noisy_start():
    """The authors' cycles ended at step 19 and their sampler at 0, with one network answer for both."""
    boundaries = Boundaries(FOUR.times, 0.0)
    low, _ = boundaries.draw_segment(torch.zeros(1))
    assert low.item() == boundaries.encode_times[0] == boundaries.decode_times[-1] == 0
    five = Boundaries(FOUR.times, 0.02, (0, 0.02, 0.26, 0.52, 0.78, 1))  # or with a call of its own
    low, high = five.draw_segment(torch.zeros(1))
    assert five.reverse_end(high).item() == pytest.approx(low.item()) == 0.02 == five.encode_times[0]
    assert five.most_reverse_steps(0.02) == 1
    five.require_on_grid(50)


def test_finer_decoding():
    boundaries = Boundaries([0, 0.5, 1], 0.02, [0, 0.1, 0.3, 0.5, 0.8, 1])
    assert boundaries.decode_times == (1, 0.8, 0.5, 0.3, 0.1, 0)
    assert (boundaries.most_reverse_steps(boundaries.start), FOUR.most_reverse_steps(0.02)) == (3, 1)
    assert boundaries.reverse_end(torch.tensor([0.9, 0.5, 0.2])).tolist() == pytest.approx([0.8, 0.3, 0.1])
    assert boundaries.forward_end(torch.tensor([0.9, 0.5, 0.2])).tolist() == [1, 1, 0.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0, 0.5, 0.3, 1),), r"boundaries=\[0, 0.5, 0.3, 1\]: must rise by more than 0.001 each; sort them"),
        (((0, 0.5, 0.5, 1),), "boundaries=.*: must rise by more than 0.001 each"),
        (((0, math.nan, 1),), "boundaries=.*: must rise by more than 0.001 each"),
        (((0.26, 1),), "boundaries=.*: must begin with 0 and end with 1"),
        (((0, 259, 999),), "boundaries=.*: must begin with 0 and end with 1"),
        (((0, 1), 1.0), "start=1.0: must be at least 0 and below the next boundary, 1"),
        (((0, 0.5, 1), 0.5), "start=0.5: must be at least 0 and below the next boundary, 0.5"),
        (((0, 0.5, 1), 0.02, (0, 0.25, 1)), "reverse_times lack 0.5, which is among times; they may only be finer"),
        (((0, 0.5, 1), 0.02, (0, 0.6, 0.5, 1)), "reverse_times=.*: must rise"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Boundaries(*arguments)


def test_boundaries_off_the_grid_are_named():
    released = of_timesteps([249, 499, 699])
    with pytest.raises(ValueError, match=r"boundary 0.25 is not on the grid of num_steps = 50; 0.24 is, or choose"):
        released.require_on_grid(50)
    released.require_on_grid(100)
    FOUR.require_on_grid(50)
    with pytest.raises(ValueError, match=r"boundary 0\.02 is not on the grid of num_steps = 25"):
        FOUR.require_on_grid(25)
