"""What of each metric a run's summary keeps: its best value where there is a better and a worse, and the last."""

from typing import Literal

# First match wins; a name matches if it is the last part of the key or begins or ends it after an underscore, so that
# `val/edit_psnr`, `val/fd_mobilenet` and `test/image_to_text_r5` are found too.
GOALS: dict[str, Literal["min", "max"]] = {
    "fid": "min",
    "fd": "min",
    "kid": "min",
    "kd": "min",
    "cmmd": "min",
    "nll": "min",
    "loss": "min",
    "lpips": "min",
    "energy_distance": "min",
    "mmd": "min",
    "sliced_wasserstein": "min",
    "image_reward": "max",
    "clip_score": "max",
    "psnr": "max",
    "ssim": "max",
    "dinov2": "max",
    "precision": "max",
    "recall": "max",
    "density": "max",
    "coverage": "max",
    "r1": "max",
    "r5": "max",
    "r10": "max",
    "accuracy": "max",
}


def goal(key: str) -> Literal["min", "max"] | None:
    """Which way a measured value is better; None where that is not known, and for what is not `val/` or `test/`."""
    stage, _, name = key.partition("/")
    if stage not in ("val", "test"):
        return None
    padded = f"_{name}_"
    hits = [better for metric, better in GOALS.items() if padded.startswith(f"_{metric}_")]
    hits += [better for metric, better in GOALS.items() if padded.endswith(f"_{metric}_")]
    return hits[0] if hits else None
