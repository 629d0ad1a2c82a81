"""The other two programs that take an FID, and an Inception for all three."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def random_weights(folder: Path) -> str:
    """A file of torch-fidelity's Inception with random weights, scaled so that the features neither vanish nor grow."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    extractor, load = module.FeatureExtractorInceptionV3, module.FeatureExtractorInceptionV3.load_state_dict
    download = module.load_state_dict_from_url
    torch.manual_seed(0)
    try:
        extractor.load_state_dict, module.load_state_dict_from_url = lambda self, state: None, lambda *a, **k: {}
        network = extractor("inception-v3-compat", ["2048"])
    finally:
        extractor.load_state_dict, module.load_state_dict_from_url = load, download
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    torch.save(network.state_dict(), folder / "inception.pth")
    return str(folder / "inception.pth")


def torchmetrics_fid(
    network: nn.Module, weights: str | None, real: Tensor, made: Tensor, batch: int, device: str
) -> Callable[[], float]:
    """weights: of the Inception, in the place of `network`."""
    from torchmetrics.image import FrechetInceptionDistance

    options: dict[str, Any] = {"feature": network}  # one that resizes by itself
    if weights is not None:
        options = {"feature": 2048, "feature_extractor_weights_path": weights, "antialias": False}
    metric = FrechetInceptionDistance(**options).to(device)

    def run() -> float:
        metric.reset()
        for side, is_real in ((real, True), (made, False)):
            for rows in side.split(batch):
                metric.update(rows.to(device), real=is_real)
        return metric.compute().item()

    return run


def pytorch_fid(weights: str, real: Tensor, made: Tensor, batch: int, device: str, folder: Path) -> Callable[[], float]:
    from PIL import Image
    from pytorch_fid import fid_score, inception

    for name, side in (("real", real), ("made", made)):
        (folder / name).mkdir()
        for number, picture in enumerate(side):
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(folder / name / f"{number:06d}.png")
    inception.load_state_dict_from_url = lambda *args, **kwargs: torch.load(weights, weights_only=True)
    paths = [str(folder / name) for name in ("real", "made")]
    return lambda: float(fid_score.calculate_fid_given_paths(paths, batch, device, 2048, num_workers=0))
