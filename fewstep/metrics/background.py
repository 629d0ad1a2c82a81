"""What an edit does to the rest of a picture: nearness to the source outside the mask of the edit.

As PIE-Bench measures it (Ju et al. 2023): both pictures are black where the mask is 1, and the usual measures are taken
of the whole pictures. So the values of two edits compare only under the same mask, and rise with its size.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fewstep.metrics.features import check_pictures

MOST_PSNR = 100.0  # dB, of equal pictures, whose PSNR is infinite
LEAST_SIDE = 11  # pixels of the window of SSIM


def background_values(images: Tensor, sources: Tensor, mask: Tensor, lpips: nn.Module) -> dict[str, Tensor]:
    """psnr (dB), mse, ssim and lpips outside the mask, each [B]; NaN where the mask leaves nothing.

    images, sources: uint8 [B, 3, H, W]; mask: [B, 1, H, W], 1 where the edit is; lpips: (images, references) in
    [-1, 1] -> [B]. mse: of pixels in [0, 1].
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    check_pictures(images)
    check_pictures(sources)
    if mask.shape != (len(images), 1, *images.shape[-2:]) or images.shape != sources.shape:
        told = f"{list(images.shape)}, {list(sources.shape)} and {list(mask.shape)}"
        raise ValueError(f"pictures and their mask must have one size, got {told}")
    if min(images.shape[-2:]) < LEAST_SIDE:
        raise ValueError(f"SSIM needs pictures of {LEAST_SIDE} pixels or more, got {list(images.shape[-2:])}")
    kept = 1 - mask.to(images.device).float()
    pair = images.float().div(255) * kept, sources.float().div(255) * kept
    ssim: Any = structural_similarity_index_measure(*pair, data_range=1.0, reduction="none")  # [] for one picture
    psnr = peak_signal_noise_ratio(*pair, data_range=1.0, reduction="none", dim=(1, 2, 3))
    values = {
        "psnr": psnr.clamp(max=MOST_PSNR),
        "ssim": ssim.reshape(len(images)),
        "mse": (pair[0] - pair[1]).square().mean((1, 2, 3)),
        "lpips": lpips(*(side.mul(2).sub(1) for side in pair)),
    }
    nothing = kept.flatten(1).sum(1) == 0
    return {name: torch.where(nothing, torch.nan, value.float()) for name, value in values.items()}


class SqueezeLPIPS(nn.Module):
    """LPIPS on SqueezeNet, the one of PIE-Bench's tables, by torchmetrics; torchvision fetches the network's weights.

    ValueError in one line where they cannot be had.
    """

    def __init__(self) -> None:
        super().__init__()
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        try:
            self.metric = LearnedPerceptualImagePatchSimilarity("squeeze").eval()
        except OSError as error:
            told = f"torchvision cannot fetch the weights of SqueezeNet ({error})"
            raise ValueError(f"{told}; measure LPIPS with alex or vgg") from None
        self.protocol = {"metric": "LPIPS 0.1 squeeze", "network": "squeeze", "resize": "none"}

    def forward(self, images: Tensor, references: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.stack(
                [self.metric.net(a[None], b[None]).reshape(()) for a, b in zip(images, references, strict=True)]
            )
