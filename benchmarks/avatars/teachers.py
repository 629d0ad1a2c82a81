"""How many drawings of a pipeline have everything that their captions ask for, over steps and guidance scales.

    python benchmarks/avatars/teachers.py assets/sd_avatars --data runs/avatars64 --num 300 --out docs/images/avatars

Captions of combinations that were never trained on; two readers judge, of which the pipeline has seen neither. Writes a
sheet of 64 drawings for each number of steps, unguided and at the best scale, to --out.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.avatars.evaluation_set import Avatars, read_avatars
from fewstep.backbones import LatentDiffusion, load_latent_diffusion
from fewstep.diffusion.guidance import DynamicGuidance
from fewstep.diffusion.solvers import ddim, even_times
from fewstep.files.contact_sheet import Sample, contact_sheet
from fewstep.metrics.intervals import bootstrap_mean
from fewstep.pixels import to_uint8
from fewstep.rewards.attribute_reader import load_attribute_reader
from fewstep.rewards.attributes import judge
from fewstep.rng import PerSampleRng

READERS = ("assets/avatar_judge", "assets/avatar_judge_held_out")
ON_A_SHEET = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", help="folder or hub id")
    parser.add_argument("--network", help="another network for it, such as one whose guidance was distilled")
    parser.add_argument("--data", default="data/avatars64")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num", type=int, default=300)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 10, 25, 50])
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="folder for the sheets")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    avatars = read_avatars(options.data, options.split, options.num)
    model = load_latent_diffusion(options.pipeline, options.network)
    print(f"{options.data}, {options.split}: {len(avatars)} captions; 95 % intervals over captions")
    print("| steps | w | judge: all right | held out: all right | attributes right |\n|--:|--:|--:|--:|--:|")
    report("drawings themselves", "", avatars.image, avatars)
    latents = torch.cat([model.latents.encode(part) for part in avatars.image.split(options.batch)])
    report("through the autoencoder", "", decoded(model, latents, options.batch), avatars)
    for steps in options.steps:
        for scale in options.scales:
            drawn = draw(model, avatars, steps, scale, options.batch, options.seed)
            report(str(steps), f"{scale:g}", drawn, avatars)
            if options.out and scale in (options.scales[0], options.scales[-1]):
                write_sheet(drawn, avatars, options.out / f"{Path(options.pipeline).name}_{steps}_w{scale:g}.png")


@torch.no_grad()
def draw(model: LatentDiffusion, avatars: Avatars, steps: int, scale: float, batch: int, seed: int) -> Tensor:
    """[N, 3, H, W] by DDIM; the noise of a picture belongs to its key."""
    parts = []
    for start in range(0, len(avatars), batch):
        keys, captions = (column[start : start + batch] for column in (avatars.key, avatars.caption))
        noise = PerSampleRng(seed, keys).normal(model.latents.channels, *model.sample_size)
        condition, times = model.prompts(captions), even_times(steps, 1.0, 0.0)
        found = ddim(model.denoiser(), model.parametrization, noise, times, condition, DynamicGuidance(scale))
        parts.append(model.latents.decode(found))
    return torch.cat(parts)


def decoded(model: LatentDiffusion, latents: Tensor, batch: int) -> Tensor:
    return torch.cat([model.latents.decode(part) for part in latents.split(batch)])


@torch.no_grad()
def report(steps: str, scale: str, pictures: Tensor, avatars: Avatars) -> None:
    cells, share = [], ""
    for source in READERS:
        found = judge(load_attribute_reader(source), pictures, avatars.attributes)
        right = found.all_right.double()
        low, high = bootstrap_mean(right)
        cells.append(f"{right.mean():.3f} [{low:.3f}, {high:.3f}]")
        share = share or f"{found.share_right.mean():.4f}"
    print(f"| {steps} | {scale} | {' | '.join(cells)} | {share} |", flush=True)


def write_sheet(pictures: Tensor, avatars: Avatars, path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    shown = to_uint8(pictures[:ON_A_SHEET]).movedim(1, -1).numpy()
    samples = [
        Sample(caption.removeprefix("a pixel art avatar with "), {"drawn": Image.fromarray(picture)})
        for caption, picture in zip(avatars.caption, shown, strict=False)
    ]
    page = contact_sheet(samples, columns=16 if pictures.shape[-1] == pictures.shape[-2] else 8)
    page.quantize(256).save(path, optimize=True)  # a fifth of the bytes


if __name__ == "__main__":
    main()
