"""An optimizer step that does nothing at all where a loss or a gradient is not finite."""

import torch
from torch import Tensor
from torch.optim import Optimizer

FUSED_ON_GPU = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


def gradients(optimizer: Optimizer) -> list[Tensor]:
    """What the optimizer is about to use; of a sparse gradient its values."""
    found = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return [grad._values() if grad.is_sparse else grad for grad in found]


def nonfinite(grads: list[Tensor]) -> Tensor:
    """1.0 if a gradient or the norm over all of them is NaN or infinite, else 0.0; float32 [], still on the device."""
    if all(type(grad) is Tensor and grad.dtype == torch.float32 and grad.device.type == "cpu" for grad in grads):
        # The loss scaler's own kernel: a fifth of the norm's time on a CPU. Times 1 leaves every gradient as it is.
        flag = torch.zeros(())
        torch._amp_foreach_non_finite_check_and_unscale_(grads, flag, torch.ones(()))
        return flag
    norm = torch.nn.utils.get_total_norm(grads)
    if hasattr(norm, "full_tensor"):  # of gradients split over ranks
        norm = norm.full_tensor()
    return (~norm.isfinite()).float()


def poison(loss: Tensor) -> None:
    """Let a loss that is not finite turn the gradients into NaN; a finite one leaves them as they are, bit for bit.

    A loss can be infinite and its gradient not. And a loss belongs to one rank, while gradients are averaged over all:
    the NaN reaches every rank with them, so that all decide alike without another word.
    """
    if loss.requires_grad:
        value = loss.detach()
        loss.register_hook(lambda grad: grad + value * 0)


def can_skip_on_device(optimizer: Optimizer) -> bool:
    """Whether the optimizer's GPU kernels look at `found_inf` themselves, so that the host need not wait for them.

    These are the fused ones. Adam, AdamW and SGD are switched to them, as PyTorch advises anyway, unless the module has
    asked for others. It does not set `_step_supports_amp_scaling`: the gradients that reach a step are unscaled.
    """
    groups = optimizer.param_groups
    if not all(p.is_cuda and p.is_floating_point() for group in groups for p in group["params"]):
        return False
    others = any(group.get("foreach") or group.get("differentiable") or group.get("fused") is False for group in groups)
    if type(optimizer) in FUSED_ON_GPU and not others:
        use_fused_kernels(optimizer)
    return all(group.get("fused") for group in groups)


def use_fused_kernels(optimizer: Optimizer) -> None:
    """Switch an optimizer over, restored state included: fused kernels keep their step counts on the device."""
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False
    for parameter, state in optimizer.state.items():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].to(parameter.device)


def drop(optimizer: Optimizer, flag: Tensor, on_device: bool) -> None:
    """Keep the coming step from changing anything if flag [] is 1: weights, moments, step counts, weight decay.

    on_device: leave the decision to the fused kernels, as the loss scaler of float16 does. Else the host reads the flag
    and takes the gradients away: optimizers leave weights without a gradient alone.
    """
    if on_device:
        optimizer.grad_scale, optimizer.found_inf = None, flag
    elif bool(flag):
        optimizer.zero_grad(set_to_none=True)


def clear(optimizer: Optimizer) -> None:
    """Forget the flag after the step."""
    for name in ("grad_scale", "found_inf"):
        optimizer.__dict__.pop(name, None)


class LateFlag:
    """A flag [] of the device that is read later: by then it lies in host memory and nobody waits for the device."""

    def __init__(self, flag: Tensor) -> None:
        self._host, self._copied = flag, None
        if flag.is_cuda:
            self._host = torch.empty((), dtype=flag.dtype, pin_memory=True).copy_(flag, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def __bool__(self) -> bool:
        if self._copied is not None:
            self._copied.synchronize()
        return bool(self._host)
