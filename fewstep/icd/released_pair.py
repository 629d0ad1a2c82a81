"""A pair from two files of adapters that no ICD run exported, such as those of iCD's authors."""

from collections.abc import Sequence
from pathlib import Path

import torch

from fewstep.backbones import load_latent_diffusion
from fewstep.backbones.adapter_files import DIFFUSERS_FILE, read_adapter
from fewstep.backbones.adapters import PEFT_ALPHA, matching_layers
from fewstep.distillation.boundaries import Boundaries
from fewstep.distillation.students import load_students
from fewstep.files.hub import weights_file
from fewstep.icd.pair import InvertibleConsistency
from fewstep.picture_size import Size


def load_released_pair(
    forward: str | Path,
    reverse: str | Path,
    pipeline: str,
    network: str | None,
    boundaries: Boundaries,
    trained_scales: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    image_size: Size | None = None,
) -> InvertibleConsistency:
    """The students of these two files on a guidance-distilled network; rank and alpha are those of the files.

    forward, reverse: files, folders or hub ids of adapters, see fewstep.backbones.adapter_files; the authors' tell no
    alpha and mean 8. pipeline: what they were distilled from. network: its guidance-distilled network, such as the
    authors' sd15_cfg_distill.pt. boundaries, trained_scales: those of the training, as the files do not tell them; None
    for the scales that the network's folder tells. The codes' scale is not known. ValueError in one line where a file,
    the base and these do not fit.
    """
    files = {role: weights_file(file, DIFFUSERS_FILE) for role, file in (("forward", forward), ("reverse", reverse))}
    model = load_latent_diffusion(pipeline, network, dtype, image_size)
    if trained_scales is None and model.guidance_scales is None:
        raise ValueError(
            f"{network or pipeline} does not tell its guidance scales: give the trained ones, 1 (unguided) among them"
        )
    scales, layers = model.scales_to_train(trained_scales), matching_layers(model.network)
    found = {role: read_adapter(file, layers) for role, file in files.items()}
    if len(ranks := {adapter.rank for adapter in found.values()}) > 1:
        raise ValueError(f"{files['forward']} and {files['reverse']} have ranks {sorted(ranks)}; both are of one run")
    alphas = {PEFT_ALPHA if adapter.alpha is None else adapter.alpha for adapter in found.values()}
    if len(alphas) > 1:
        raise ValueError(f"{files['forward']} and {files['reverse']} have alphas {sorted(alphas)}; both are of one run")
    settings = {"kind": "lora", "rank": ranks.pop(), "alpha": alphas.pop()}
    students = load_students(model.to(device), settings, files)
    return InvertibleConsistency(model, students.forward, students.reverse, boundaries, scales)
