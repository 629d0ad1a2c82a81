"""What each set metric says about faults that are known: other real pictures, noise, blur, too little variety.

    python benchmarks/metrics/known_faults.py [--data data/emoji64] [--network mobilenet] [--images 500]

The real set is the first N training pictures of a seeded shuffle, the others are made of the next N. A metric is of use
where every fault scores worse than `other real pictures`. One draw, no intervals.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from datamodules import ImageTextDataModule
from datamodules.image_options import Splits
from fewstep.metrics.features import MobileNetV2
from fewstep.metrics.frechet import FeatureMoments, Gaussian, frechet_distance
from fewstep.metrics.kernel_distance import kid
from fewstep.metrics.perceptual import TrunkFeatures
from fewstep.metrics.precision_recall import precision_recall_density_coverage

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "mobilenet": lambda size: MobileNetV2(size=size),
    "alexnet": lambda size: TrunkFeatures("alex", size=size),
    "vgg16": lambda size: TrunkFeatures("vgg", size=size),
}


def faults(images: Tensor) -> dict[str, Tensor]:
    """name -> float [N, 3, H, W] in [-1, 1]"""
    from torchvision.transforms.functional import gaussian_blur

    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    repeated = images[:20].repeat(-(-len(images) // 20), 1, 1, 1)[: len(images)]
    return {
        "other real pictures": images,
        "noise of 5 %": images + 0.1 * noise,
        "noise of 10 %": images + 0.2 * noise,
        "blur of 1 pixel": gaussian_blur(images, 7, 1.0),
        "mirrored left to right": images.flip(3),
        "20 pictures repeated": repeated,
        "half contrast": images * 0.5,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/emoji64")
    parser.add_argument("--network", choices=NETWORKS, default="mobilenet")
    parser.add_argument("--size", type=int, default=64, help="pixels that the network reads (64)")
    parser.add_argument("--images", type=int, default=500, metavar="N")
    args = parser.parse_args()
    real, other = read(args.data, args.images)
    network = NETWORKS[args.network](args.size)

    def features(images: Tensor) -> Tensor:
        pictures = images.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
        return torch.cat([network(part) for part in pictures.split(50)])

    reference = features(real)
    print(f"{args.network} at {args.size} pixels, {args.images} pictures of {args.data} on either side\n")
    print("| | FD | KD x 1000 | precision | recall | density | coverage |\n|---|---|---|---|---|---|---|")
    for name, images in faults(other).items():
        found = features(images)
        distance = frechet_distance(gaussian(reference), gaussian(found))
        kernel = kid(reference, found, subsets=20, subset_size=args.images // 2)
        shares = precision_recall_density_coverage(reference, found).values()
        row = [f"{distance:.4g}", f"{1000 * kernel.mean:.4g}", *(f"{share:.2f}" for share in shares)]
        print(f"| {name} | {' | '.join(row)} |", flush=True)


def gaussian(features: Tensor) -> Gaussian:
    moments = FeatureMoments(features.shape[1])
    moments.add(features)
    return moments.gaussian()


def read(path: str, num: int) -> tuple[Tensor, Tensor]:
    """Two disjoint sets of `num` training pictures, float [num, 3, 64, 64] in [-1, 1]."""
    data = ImageTextDataModule(path, splits=Splits(val="train", num_val=2 * num), eval_batch_size=100, num_workers=0)
    data.setup("validate")
    images = []
    for batch in data.val_dataloader():
        images.append(batch["image"][batch["weight"] > 0].float() / 127.5 - 1)
    images = torch.cat(images)[torch.randperm(2 * num, generator=torch.Generator().manual_seed(0))]
    return images[:num], images[num:]


if __name__ == "__main__":
    main()
