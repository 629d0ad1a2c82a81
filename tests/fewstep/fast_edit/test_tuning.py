"""Edits as new: they change nothing, and depend on no edit beside them."""

import pytest
import torch

from fewstep.fast_edit.tuned import TunedAdapters
from fewstep.fast_edit.tuning import TuningOptions, restart
from tests.tiny_edit_base import base, pictures

TIMES = torch.tensor([0.3, 0.6])


@pytest.mark.parametrize("tuning", [TuningOptions(rank=2), TuningOptions("full")], ids=["lora", "full"])
def test_a_new_edit_and_one_made_new_are_the_base(tuning):
    tuned = tuning.of(base(), ["one", "two"])
    plain = tuned.predict(pictures(), TIMES, None)
    assert torch.equal(tuned.predict(pictures(), TIMES, "one"), plain)
    with torch.no_grad():
        for weight in tuned.parameters("one"):
            weight.add_(0.3)
    assert not torch.allclose(tuned.predict(pictures(), TIMES, "one"), plain, atol=1e-2)
    restart(tuned, "one")
    assert torch.equal(tuned.predict(pictures(), TIMES, "one"), plain)
    assert all(weight.requires_grad for weight in tuned.parameters("one"))


def test_adapters_begin_by_the_seed_whatever_stands_beside_them():
    torch.manual_seed(1)
    alone = TuningOptions(rank=2).of(base(), ["edit"]).state("edit")
    torch.manual_seed(2)
    second = TuningOptions(rank=2).of(base(), ["other", "edit"]).state("edit")
    assert all(torch.equal(alone[name], second[name]) for name in alone)
    third = TuningOptions(rank=2).of(base(), ["edit"], seed=5).state("edit")
    assert not any(torch.equal(alone[name], third[name]) for name in alone if "lora_A" in name)


def test_they_begin_as_wide_as_those_of_peft():
    """A is uniform, up to one over the root of what a row of it sums over."""
    state, theirs = (
        TuningOptions(rank=64).of(base(), ["edit"]).state("edit"),
        TunedAdapters(base(), rank=64).state("edit"),
    )
    for name, weight in state.items():
        most = weight[0].numel() ** -0.5 if "lora_A" in name else 0.0
        for found in (weight, theirs[name]):
            assert found.abs().max().item() == pytest.approx(most, rel=0.05)
        torch.testing.assert_close(weight.std(), theirs[name].std(), rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "bias"}, "tuning.kind='bias': choose one of lora, full"),
        ({"rank": 0}, "tuning.rank=0: must be at least 1"),
        ({"alpha": 0.0}, "tuning.alpha=0.0: must be above 0"),
    ],
)
def test_mistakes_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        TuningOptions(**options)
