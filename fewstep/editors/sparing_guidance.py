"""The denoiser of a pipeline that guides where something is to be guided, and only there."""

from torch import Tensor

from fewstep.backbones import DiffusersDenoiser, LatentDiffusion, has_guidance_embedding
from fewstep.diffusion.guidance import Condition, Denoiser


class SparingGuidance:
    """`denoiser` of a pipeline without guidance embedding; calls in which all scales are 1 cost one row for each.

    There classifier-free guidance would throw its second answer away: inversions are unguided throughout, and decoding
    is until tau.
    """

    def __init__(self, model: LatentDiffusion, denoiser: Denoiser) -> None:
        self.plain = DiffusersDenoiser(model.network, model.parametrization.schedule, model.control).network
        self.guided = denoiser

    def __call__(self, x: Tensor, t: Tensor, guidance_scale: Tensor, condition: Condition) -> Tensor:
        if bool((guidance_scale == 1).all()):
            return self.plain(x, t, condition)
        return self.guided(x, t, guidance_scale, condition)


def sparing(model: LatentDiffusion) -> Denoiser:
    """That of the pipeline's own way of guidance."""
    denoiser = model.denoiser()
    return denoiser if has_guidance_embedding(model.network) else SparingGuidance(model, denoiser)


def require_plain(model: LatentDiffusion, editor: str) -> None:
    """ValueError in one line for a network that is told w and so has no unguided answer of another prompt to mix."""
    if has_guidance_embedding(model.network):
        raise ValueError(f"{editor} guides away from a prompt of its own; give a pipeline without guidance embedding")
