"""Gradients of every format are judged, and a switch to fused kernels keeps the optimizer's state."""

import pytest
import torch

from callbacks.care import step_skipping
from tests.callbacks.faulty_run import FaultyModule, KeyedData, trainer_with


def test_a_switch_to_fused_kernels_goes_on_from_the_state_there_is():
    modules = [FaultyModule(), FaultyModule()]
    optimizers = [module.configure_optimizers()["optimizer"] for module in modules]
    data = KeyedData()
    data.trainer = trainer_with()
    data.setup("fit")
    for number, batch in enumerate(data.train_dataloader()):
        if number == 5:
            step_skipping.use_fused_kernels(optimizers[1])
        for module, optimizer in zip(modules, optimizers, strict=True):
            optimizer.zero_grad()
            module.loss(batch).backward()
            optimizer.step()
    for one, two in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert not step_skipping.can_skip_on_device(optimizers[1])  # the host decides on a CPU


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), -float("inf")])
def test_gradients_of_every_format_are_judged_and_left_as_they_are(dtype, bad):
    grads = [torch.randn(3, 5, dtype=dtype), torch.tensor([1e-45, -0.0, 3.0], dtype=dtype)]
    if bad is not None:
        grads[1][1] = bad
    before = [grad.clone() for grad in grads]
    assert bool(step_skipping.nonfinite(grads)) == (bad is not None)
    for one, two in zip(before, grads, strict=True):
        assert torch.equal(one.view(torch.uint8), two.view(torch.uint8))
