"""A pair of students under watch: how often its networks are called, and what the decoder takes the picture for."""

from dataclasses import dataclass, field, replace

from torch import Tensor

from fewstep.diffusion.guidance import Condition, Denoiser
from fewstep.icd.pair import InvertibleConsistency


@dataclass
class Watch:
    """calls: network calls so far, each for a whole batch. views: (t, data [rows, C, h, w]) of each call of `reverse`.

    The data are what the answer at time t stands for, the expected picture given the noisy one.
    """

    calls: int = 0
    views: list[tuple[float, Tensor]] = field(default_factory=list)

    def pair(self, pair: InvertibleConsistency) -> InvertibleConsistency:
        """The same pair; every call that it makes is recorded here."""
        forward, reverse = self._counted(pair.forward), self._counted(pair.reverse)

        def seen(x: Tensor, t: Tensor, guidance_scale: Tensor, condition: Condition) -> Tensor:
            output = reverse(x, t, guidance_scale, condition)
            self.views.append((float(t[-1]), pair.model.parametrization.data(x, output, t)))
            return output

        return replace(pair, forward=forward, reverse=seen)

    def pictures(self, pair: InvertibleConsistency) -> list[tuple[float, Tensor]]:
        """(t, image [1, 3, H, W]) of each call of `reverse`, of the last row: the edited one of an edit."""
        return [(t, pair.model.latents.decode(data[-1:])) for t, data in self.views]

    def _counted(self, denoiser: Denoiser) -> Denoiser:
        def counted(x: Tensor, t: Tensor, guidance_scale: Tensor, condition: Condition) -> Tensor:
            self.calls += 1
            return denoiser(x, t, guidance_scale, condition)

        return counted
