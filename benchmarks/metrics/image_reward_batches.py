"""ImageReward of batches against one picture at a time, as the published scorer is called: pictures per second.

    python benchmarks/metrics/image_reward_batches.py [--sizes published] [--images 64] [--batch 16] [--device cuda]

Random weights, which cost the same. `small` has four of 24 vision and two of twelve text layers, in their true widths.
Both ways include resizing and tokens' way through the network; they alternate, and the ratio is of medians. The largest
difference of the scores is printed, too.
"""

import argparse
import statistics
import time

import torch

from fewstep.pixels import pixel_values
from fewstep.rewards.image_reward import MAX_TOKENS, ImageReward

SIZES: dict[str, dict[str, int]] = {"published": {}, "small": {"vision_layers": 4, "text_layers": 2}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", choices=SIZES, default="published")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = ImageReward(**SIZES[args.sizes]).eval().requires_grad_(False).to(args.device)
    for layer in model.head:
        if isinstance(layer, torch.nn.Linear):  # their own start would give every picture the same score
            torch.nn.init.xavier_normal_(layer.weight)
    images = torch.rand(args.images, 3, 256, 256).mul(2).sub(1).to(args.device)
    tokens = torch.randint(1000, 20000, (args.images, MAX_TOKENS), device=args.device)
    scores: dict[int, torch.Tensor] = {}

    def run(batch: int) -> float:
        start = time.perf_counter() if args.device == "cuda" else time.process_time()
        parts = zip(images.split(batch), tokens.split(batch), strict=True)
        with torch.no_grad():
            found = [model.score_tokens(pixel_values(i, model.preprocessing), t, torch.ones_like(t)) for i, t in parts]
        scores[batch] = torch.cat(found).cpu()  # waits for the device
        return (time.perf_counter() if args.device == "cuda" else time.process_time()) - start

    run(args.batch)
    times: dict[int, list[float]] = {1: [], args.batch: []}
    for _ in range(args.repeats):
        for batch, taken in times.items():
            taken.append(run(batch))
    one, many = (statistics.median(times[batch]) for batch in (1, args.batch))
    print(f"{args.sizes} sizes, {args.images} pictures on {args.device}, {args.threads} CPU threads")
    print(f"batches of {args.batch} against one by one: {one / many:.2f} times as many pictures per second")
    print(f"largest difference of a score: {(scores[1] - scores[args.batch]).abs().max():.1e}")


if __name__ == "__main__":
    main()
