"""FLOPs by the profiler's shapes against torch's own counter, which looks at the operators themselves."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from callbacks.speed.flop_count import FlopCount


def linear() -> None:
    nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))(torch.randn(2, 3, 5)).sum().backward()


def convolutions() -> None:
    strided, dilated = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 4, 3, dilation=2)
    transposed = nn.ConvTranspose2d(4, 2, 2, stride=2, bias=False)
    transposed(dilated(strided(torch.randn(2, 3, 16, 16)))).sum().backward()


def attention() -> None:
    query, key = (torch.randn(2, 4, rows, 8, requires_grad=True) for rows in (10, 6))
    F.scaled_dot_product_attention(query, key, key).sum().backward()


def products() -> None:
    a = torch.randn(2, 3, 5, requires_grad=True)
    loss = torch.einsum("bij,bkj->bik", a, a).sum() + torch.baddbmm(torch.zeros(2, 3, 3), a, a.mT).sum()
    loss.backward()


@pytest.mark.parametrize("step", [linear, convolutions, attention, products])
def test_agrees_with_flop_counter_mode(step):
    with FlopCounterMode(display=False) as counter:
        step()
    count = FlopCount()
    count.start()
    step()
    assert count.stop() == counter.get_total_flops() > 0


def test_a_grouped_convolution_costs_three_times_its_forward_pass():
    """FlopCounterMode takes its weight gradient for that of an ungrouped one."""
    net, image = nn.Conv2d(8, 4, 3, groups=2, bias=False), torch.randn(2, 8, 6, 6, requires_grad=True)
    count = FlopCount()
    count.start()
    net(image).sum().backward()
    assert count.stop() == 3 * (
        2 * (2 * 4 * 4 * 4) * (4 * 3 * 3)
    )  # outputs [2, 4, 4, 4], each over 4 channels of 3 x 3


def test_frozen_weights_cost_less():
    def step(trained: bool) -> float:
        net = nn.Sequential(nn.Linear(6, 6, bias=False).requires_grad_(trained), nn.Linear(6, 1, bias=False))
        count = FlopCount()
        count.start()
        net(torch.zeros(4, 6)).sum().backward()
        return count.stop()

    assert step(True) - step(False) == 2 * 4 * 6 * 6 + 2 * 4 * 6  # one weight gradient and one input gradient


def test_it_ends_and_does_not_start_beside_another_profiler():
    assert FlopCount().stop() is None
    with torch.autograd.profiler.profile() as other:
        count = FlopCount()
        count.start()
        torch.mm(torch.ones(2, 2), torch.ones(2, 2))
        assert count.stop() is None
    assert "aten::mm" in {event.name for event in other.function_events}
