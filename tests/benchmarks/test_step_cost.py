"""The two forms that benchmarks/ot_conditional/step_cost.py times are the same mathematics, and memory is counted."""

import pytest
import torch

from benchmarks.ot_conditional.step_cost import LEAVES, fewstep_loss, make_inputs, peak_bytes, plain_loss, step


@pytest.mark.parametrize("dim", [1, 3])
def test_plain_form_equals_fewstep_in_loss_and_gradient(dim):
    inputs = make_inputs(dim, batch=4, components=2, dtype=torch.float64)
    plain, ours = step(plain_loss, inputs), step(fewstep_loss, inputs)
    for name, expected, value in zip(("loss", *LEAVES), plain, ours, strict=True):
        assert torch.allclose(value, expected, rtol=1e-12, atol=1e-14), name
        assert expected.abs().max() > 1e-3, name  # nothing but zeros would compare nothing


def test_peak_memory_counts_what_is_alive_together():
    inputs = {name: torch.ones((), requires_grad=True) for name in LEAVES} | {"y": torch.ones(())}

    def loss(inputs):
        for _ in range(3):
            one_at_a_time = torch.empty(1 << 20)  # 4 MiB
            del one_at_a_time
        two_together = torch.empty(1 << 20), torch.empty(1 << 19)  # 6 MiB
        return sum(inputs[name] for name in LEAVES) + 0 * len(two_together)

    assert peak_bytes(loss, inputs) == pytest.approx(6 << 20, abs=1000)


def test_fewstep_never_builds_the_broadcast_tensor():
    inputs = make_inputs(32, batch=16, components=8)
    broadcast = 16 * 8 * 8 * 32 * 4  # bytes of one [B, N, M, D]
    assert peak_bytes(fewstep_loss, inputs) < broadcast < peak_bytes(plain_loss, inputs)
