"""What all parts of the measurement share: the teacher, the pictures and their latents, the judge, the results."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.icd.chains import Chains
from benchmarks.icd.evaluation_set import Pictures, read_pictures, style_pairs
from benchmarks.icd.judge import Judge
from benchmarks.icd.results import Results, Row
from fewstep.backbones import DiffusersDenoiser, has_guidance_embedding, load_latent_diffusion
from fewstep.diffusion.guidance import (
    Condition,
    DynamicGuidance,
    GuidanceSchedule,
    Network,
    require_trained,
)
from fewstep.diffusion.solvers import even_times
from fewstep.icd.pair import InvertibleConsistency
from fewstep.rng import PerSampleRng

FINE = 50  # steps of the long chains


@dataclass
class Bench:
    """pictures [N], a part of `every` picture of the split; targets: the same concepts in another style.

    data, noise, condition: of the pictures. floor: the pictures as the autoencoder gives them back.
    original: the teacher before its guidance was distilled; None if the pipeline has none.
    chains, plain: of the teacher, and of the original without guidance; shared by all parts.
    """

    pair: InvertibleConsistency
    original: Network | None
    chains: Chains
    plain: Chains | None
    every: Pictures
    pictures: Pictures
    targets: Pictures
    data: Tensor
    noise: Tensor
    condition: Condition
    floor: Tensor
    judge: Judge
    results: Results
    scale: float
    split: str
    seed: int
    batch: int

    @property
    def device(self) -> torch.device:
        return self.data.device

    def first(self, num: int) -> "Bench":
        """The same for the first pictures only, with what the chains know already."""
        rows = list(range(min(num, len(self.pictures))))
        condition = {name: value[rows] for name, value in self.condition.items()}
        return replace(
            self, pictures=self.pictures[rows], targets=self.targets[rows], data=self.data[rows],
            noise=self.noise[rows], condition=condition, floor=self.floor[rows],
        )  # fmt: skip

    def prompts(self, captions: list[str]) -> Condition:
        return self.pair.model.prompts(captions)

    def images(self, latents: Tensor) -> Tensor:
        return torch.cat([self.pair.model.latents.decode(part) for part in latents.split(self.batch)])

    def row(
        self,
        part: str,
        method: str,
        guidance: str | None = None,
        config: str = "teacher",
        export: str | None = None,
        start: float | None = None,
        num: int | None = None,
    ) -> Row:
        about = {"part": part, "config": config, "export": export, "method": method, "start": start}
        about |= {"guidance": guidance, "split": self.split, "num": num or len(self.pictures), "seed": self.seed}
        return about

    @property
    def guidances(self) -> dict[str, GuidanceSchedule]:
        """Of decoding: none, constant, and below two times."""
        constant = f"w={self.scale:g}"
        ways: dict[str, GuidanceSchedule] = {"w=1": DynamicGuidance(1.0), constant: DynamicGuidance(self.scale)}
        return ways | {f"{constant}, t<={t}": DynamicGuidance(self.scale, t) for t in (0.8, 0.7)}

    @property
    def ramp(self) -> tuple[str, GuidanceSchedule]:
        """Between the two steps and as strong as both on average, but not made of levels that were trained."""
        return f"w={self.scale:g}, ramp 0.6-0.9", DynamicGuidance(self.scale, 0.6, 0.9)


def load_pair(folder: str, device: str) -> InvertibleConsistency:
    return InvertibleConsistency.load(folder, device=device)


def make_bench(
    export: str,
    data: str,
    split: str,
    num: int,
    results: Path,
    scorer: str,
    scale: float = 8.0,
    feature_size: int = 64,
    seed: int = 0,
    device: str = "cpu",
    batch: int = 64,
) -> Bench:
    pair = load_pair(export, device)
    require_trained(scale, pair.guidance_scales)
    model = pair.model
    every = read_pictures(data, split, model.prompts.tokenizer, model.prompts.length, model.image_size)
    pictures, targets = style_pairs(every, num, seed)
    images = pictures.image.to(device)
    latents = torch.cat([model.latents.encode(part) for part in images.split(batch)])
    noise = PerSampleRng(seed, pictures.key, device).normal(*latents.shape[1:])
    floor = torch.cat([model.latents.decode(part) for part in latents.split(batch)])
    schedule = model.parametrization.schedule
    chains = Chains(DiffusersDenoiser(model.network, schedule), model.parametrization, batch)  # its adapters rest
    original, plain = original_of(export, device), None
    if original is not None:
        unguided = lambda x, t, _, condition: original(x, t, condition)  # noqa: E731
        plain = Chains(unguided, model.parametrization, batch)
    return Bench(
        pair, original, chains, plain, every, pictures, targets, latents, noise, model.prompts(pictures.caption), floor,
        Judge(scorer, feature_size, device, batch), Results(results), scale, split, seed, batch,
    )  # fmt: skip


def original_of(export: str, device: str = "cpu") -> Network | None:
    """The pipeline's own network, None if it is told the guidance scale itself."""
    model = load_latent_diffusion(teacher_of(export)[0]).to(device)
    if has_guidance_embedding(model.network):
        return None
    return DiffusersDenoiser(model.network, model.parametrization.schedule).network


def teacher_of(export: str) -> tuple[str, str | None]:
    """(pipeline, network) that an export names."""
    try:
        told = json.loads(Path(export, "icd.json").read_text())
        return told["pipeline"], told["network"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"cannot read {export}/icd.json ({error}); give the export folder of an ICD run") from None


def fine_times(start: float) -> tuple[float, ...]:
    """From `start` along the grid of FINE steps to 1."""
    return (start, *(time for time in even_times(FINE) if time > start + 1e-6))
