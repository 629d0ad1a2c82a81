"""README.md of an export: what its files are, and what other programs must know to draw with them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.icd.pair import InvertibleConsistency

CARD = """# Two students of invertible consistency distillation ([arXiv 2406.14539](https://arxiv.org/abs/2406.14539))

`forward` encodes a picture of {height} x {width} pixels to a code in {encoding} calls, `reverse` decodes a code, or
noise, in {decoding}. Both are {kind} {of} a guidance-distilled network, which `icd.json` names.

    python -m fewstep.icd generate FOLDER --prompt "..."
    python -m fewstep.icd edit FOLDER --image a.png --source "what it shows" --target "what it shall show"

## In other programs, such as diffusers

* A call of `reverse` is one DDIM step, from t = 1 (pure noise) over {times}.
* The guidance scale is told to the network (`timestep_cond` of a UNet), one of {scales}; 1 is unguided.
* {noise}
"""
MEASURED = """**Multiply the noise that you pass by {scale:.4g}**, the `code_scale` of `icd.json`. A pipeline of
  diffusers draws N(0, I) itself unless it is told `latents={scale:.4g} * noise`. The codes of this pair have that root
  mean square, and its decoder takes noise for a code. Codes themselves are passed as they are."""
UNKNOWN = """Noise is N(0, I): how large the codes of this pair are was not measured, as no validation was run."""


def write_card(folder: str | Path, pair: InvertibleConsistency, students: Mapping[str, Any]) -> None:
    """Write FOLDER/README.md. students: Students.settings."""
    (height, width), ends = pair.model.image_size, pair.boundaries
    noise = UNKNOWN if pair.code_scale is None else MEASURED.format(scale=pair.code_scale)
    told = CARD.format(
        height=height,
        width=width,
        encoding=len(ends.encode_times) - 1,
        decoding=len(ends.decode_times) - 1,
        kind="LoRA adapters" if students["kind"] == "lora" else "whole networks",
        of="on" if students["kind"] == "lora" else "trained from",
        times=", ".join(f"{time:g}" for time in ends.decode_times[1:]),
        scales=", ".join(f"{scale:g}" for scale in pair.guidance_scales),
        noise=noise,
    )
    Path(folder, "README.md").write_text(told)
