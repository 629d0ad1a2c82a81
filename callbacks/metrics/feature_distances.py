"""Distances between the features of generated and real images that need the features themselves, not only moments."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks.metrics.both_stages import in_both_stages
from callbacks.metrics.measurements import Measured, publish
from callbacks.metrics.two_samples import TwoSamples
from fewstep.metrics.features import CLIPImage, FIDInception
from fewstep.metrics.intervals import influence_interval
from fewstep.metrics.kernel_distance import cmmd, cmmd_influence, kid, kid_influence
from fewstep.metrics.precision_recall import precision_recall_density_coverage


@in_both_stages
class KIDCallback(Callback):
    """Logs `val/kid` and its spread over subsets `val/kid_std`; with another network `val/kd_NAME`. `test/` likewise.

    Args:
        network, real_field, cache_dir: as in FIDCallback; equal networks are shared and run once per batch.
        subsets, subset_size, seed: the mean over so many random subsets; see `fewstep.metrics.kernel_distance.kid`.
        max_images: features kept of either side; of more images a random sample, the same for every batch size.
        interval: also measure a 95 % interval, see FIDCallback; at 10,000 images as long as 100 subsets of 1000.

    Unbiased, so small numbers of images may be compared; values a little below 0 are as good as 0.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        subsets: int = 100,
        subset_size: int = 1000,
        max_images: int = 10_000,
        seed: int = 0,
        real_field: str = "image",
        cache_dir: str | None = None,
        interval: bool | None = None,
    ) -> None:
        if not 2 <= subset_size <= max_images or subsets < 1:
            raise ValueError(
                f"subsets={subsets}, subset_size={subset_size}, max_images={max_images}: needed are subsets >= 1 and "
                "2 <= subset_size <= max_images"
            )
        self.samples = TwoSamples(network, max_images, seed, real_field, cache_dir)
        self.subsets, self.subset_size, self.interval = subsets, subset_size, interval
        self.measured: Measured = {}
        self.influence: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.samples.place(trainer, default=FIDInception)

    def start(self, trainer: Trainer) -> None:
        self.samples.clear()

    def add(self, outputs: dict[str, Any], batch: dict[str, Any]) -> None:
        self.samples.add(outputs, batch)

    def finish(self, stage: str, trainer: Trainer, module: LightningModule) -> None:
        real, generated, protocol = self.samples.gather(trainer)
        network = self.samples.features.name
        name = "kid" if network == "fid" else f"kd_{network}"
        result = kid(real, generated, self.subsets, self.subset_size, self.samples.seed)
        protocol |= {"metric": "kernel distance", "subsets": self.subsets, "subset_size": self.subset_size}
        values = {f"{stage}/{name}": result.mean, f"{stage}/{name}_std": result.std}
        self.influence = {f"{stage}/{name}": kid_influence(real, generated)} if self.interval else {}
        of_subsets = result.std**2 / self.subsets
        intervals = {
            key: influence_interval(result.mean, each, variance=of_subsets) for key, each in self.influence.items()
        }
        self.measured = publish(trainer, module, values, protocol, intervals)


@in_both_stages
class CMMDCallback(Callback):
    """Logs `val/cmmd`, after a test `test/cmmd`; with a network other than OpenAI's ViT-L/14 at 336 `val/cmmd_NAME`.

    A kernel distance between CLIP embeddings (Jayasumana et al. 2024).

    Args:
        network: feature network with unit-length embeddings; None for the published one, features.CLIPImage().
        max_images, seed, real_field, cache_dir, interval: as in KIDCallback.

    The published estimate, which is biased on few images: compare equal numbers only.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        max_images: int = 10_000,
        seed: int = 0,
        real_field: str = "image",
        cache_dir: str | None = None,
        interval: bool | None = None,
    ) -> None:
        self.samples = TwoSamples(network, max_images, seed, real_field, cache_dir)
        self.interval = interval
        self.measured: Measured = {}
        self.influence: dict[str, Tensor] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.samples.place(trainer, default=CLIPImage)

    start, add = KIDCallback.start, KIDCallback.add

    def finish(self, stage: str, trainer: Trainer, module: LightningModule) -> None:
        real, generated, protocol = self.samples.gather(trainer)
        network = self.samples.features.name
        name = "cmmd" if network == "clip_l14_336" else f"cmmd_{network}"
        protocol |= {"metric": "CMMD", "sigma": 10.0, "scale": 1000.0}
        key, value = f"{stage}/{name}", cmmd(real, generated)
        self.influence = {key: cmmd_influence(real, generated)} if self.interval else {}
        intervals = {k: influence_interval(value, each) for k, each in self.influence.items()}
        self.measured = publish(trainer, module, {key: value}, protocol, intervals)


@in_both_stages
class DiversityCallback(Callback):
    """Logs `val/precision`, `val/recall`, `val/density`, `val/coverage`; after a test under `test/`.

    Args:
        neighbours: the ball of an image reaches to its k-th neighbour; 5 as in Naeem et al., 3 in Kynkäänniemi et al.
        network, max_images, seed, real_field, cache_dir: as in KIDCallback; the network stands in the protocol.

    All four depend on the number of images: compare equal numbers only.
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        neighbours: int = 5,
        max_images: int = 10_000,
        seed: int = 0,
        real_field: str = "image",
        cache_dir: str | None = None,
    ) -> None:
        if not 1 <= neighbours < max_images:
            raise ValueError(f"neighbours={neighbours}: needed are 1 or more, and fewer than max_images={max_images}")
        self.samples = TwoSamples(network, max_images, seed, real_field, cache_dir)
        self.neighbours = neighbours
        self.measured: Measured = {}

    setup, start, add = KIDCallback.setup, KIDCallback.start, KIDCallback.add

    def finish(self, stage: str, trainer: Trainer, module: LightningModule) -> None:
        real, generated, protocol = self.samples.gather(trainer)
        shares = precision_recall_density_coverage(real, generated, self.neighbours)
        protocol |= {"metric": "precision and recall", "neighbours": self.neighbours}
        values = {f"{stage}/{name}": share for name, share in shares.items()}
        self.measured = publish(trainer, module, values, protocol)
