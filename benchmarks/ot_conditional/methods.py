"""Every method of the comparison as a recipe: a network, its optimisers and what one step minimises.

Ours read configs/ot_conditional/*.yaml, so that the table measures what `train.py` trains. The settings of a baseline
that differ between the data sets were chosen on held-out pairs (docs/results/ot_conditional.md says from which grids).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from benchmarks.ot_conditional import baselines
from benchmarks.ot_conditional.closed_form import ClosedForm

CONFIGS = Path(__file__).parents[2] / "configs" / "ot_conditional"
SIZES = {"swiss_roll": (2, 2), "weather": (8, 4), "bikes": (8, 2), "shares": (5, 2)}  # Dx and Dy
MODULE_OPTIONS = {"cost_lr", "potential_lr", "cost_weight_decay", "potential_weight_decay", "schedule", "x_noise"}
Batch = dict[str, Tensor]


@dataclass
class Recipe:
    """`steps` times: for every (optimiser, loss) in turn, one step on loss(batch)."""

    model: nn.Module
    players: list[tuple[torch.optim.Optimizer, Callable[[Batch], Tensor]]]
    steps: int
    cosine: bool = False
    ema: float = 0.999  # 0 for raw weights
    unpaired_batch_size: int | None = None  # that of the pairs


def ours(config: str, data: str, num_pairs: int, **overrides: Any) -> Recipe:
    """A run config with changed arguments of its network or module; weather.yaml for the two tables without one."""
    if data in ("bikes", "shares"):
        config = config.format(data="weather")
    parsed = yaml.safe_load((CONFIGS / config.format(data=data)).read_text())
    module = parsed["model"]["init_args"]
    name, options = module["model"]["class_path"], {**module["model"]["init_args"]}
    options |= dict(zip(("x_dim", "y_dim"), SIZES[data], strict=True))
    if config.format(data=data) == "weather.yaml" and num_pairs == 32:  # as its header says
        overrides = {"cost_weight_decay": 1.0, "x_noise": 0.2, "covariance_floor": 0.05, **overrides}
    steps, ema = parsed["trainer"]["max_steps"], 0.0 if parsed.get("callbacks", {}).get("ema", 1) is None else 0.999
    for key, value in overrides.items():
        (module if key in MODULE_OPTIONS else options)[key] = value
    package, _, kind = name.rpartition(".")
    model = getattr(import_module(package), kind)(**options)
    groups, noise = model.parameter_groups(), module.get("x_noise", 0.0)
    optimizer = torch.optim.AdamW(
        [
            {
                "params": groups[group],
                "lr": module[f"{group}_lr"],
                "weight_decay": module.get(f"{group}_weight_decay", 0.0),
            }
            for group in ("cost", "potential")
        ],
        betas=tuple(module.get("betas", (0.9, 0.999))),
    )

    def loss(batch: Batch) -> Tensor:
        x = batch["x"] + noise * torch.randn_like(batch["x"]) if noise else batch["x"]
        return sum_terms(model, {**batch, "x": x})

    unpaired = parsed["data"]["init_args"].get("unpaired_batch_size")
    return Recipe(model, [(optimizer, loss)], steps, module.get("schedule") == "cosine", ema, unpaired)


def closed_form(kind: str, data: str, num_pairs: int) -> Recipe:
    """A baseline that needs no step."""
    return Recipe(ClosedForm(kind), [], 0)


def supervised(kind: type[nn.Module], steps: int, data: str, settings: dict[str, Any]) -> Recipe:
    """A baseline with one loss."""
    sizes = SIZES[data]
    options = {**settings}
    adam = {**kind.adam, **options.pop("adam", {})}
    model = kind(*sizes, **options)
    return Recipe(model, [(torch.optim.AdamW(model.parameters(), **adam), partial(sum_terms, model))], steps)


def adversarial(kind: type[nn.Module], steps: int, data: str, num_pairs: int) -> Recipe:
    """Discriminator and generator in turn."""
    model = kind(*SIZES[data])
    players = [
        (torch.optim.AdamW(model.discriminator_parameters(), **kind.discriminator_adam), model.discriminator_loss),
        (torch.optim.AdamW(model.generator_parameters(), **kind.generator_adam), model.generator_loss),
    ]
    return Recipe(model, players, steps)


def sum_terms(model: nn.Module, batch: Batch) -> Tensor:
    return torch.stack(list(model.losses(batch).values())).sum()


def weather_noise(num_pairs: int) -> float:
    """Noise on x and y of the pairs, the best for the density network among 0.05, 0.1, 0.2, 0.3 on validation weeks."""
    return {32: 0.3, 128: 0.2}.get(num_pairs, 0.1)


def baseline(kind: type[nn.Module], steps: int, data: str, num_pairs: int, **settings: Any) -> Recipe:
    """A supervised baseline; on the weather table with noise on its pairs."""
    if data == "weather":
        noise = weather_noise(num_pairs)
        settings |= {"x_noise": noise} | ({} if kind is baselines.Regression else {"y_noise": noise})
    return supervised(kind, steps, data, settings)


def density_network(data: str, num_pairs: int) -> Recipe:
    """On the weather table a linear Gaussian whose covariance depends on x."""
    settings: dict[str, Any] = {}
    if data == "weather":
        decay = {"weight_decay": 1.0} if num_pairs == 32 else {}
        settings = {"num_components": 1, "depth": 0, "adam": {"lr": 1e-2, **decay}}
    return baseline(baselines.MixtureDensityNetwork, 1500, data, num_pairs, **settings)


METHODS: dict[str, Callable[[str, int], Recipe]] = {
    "default": partial(ours, "table.yaml"),
    "marginal": partial(ours, "{data}.yaml"),
    "blend": partial(ours, "{data}.yaml", objective="blend", blend=0.5),
    "inverse_ot": partial(ours, "{data}.yaml", objective="inverse_ot"),
    "supervised light": partial(ours, "{data}.yaml", objective="blend", blend=0.0),
    "paper preset": partial(ours, "paper.yaml"),
    "energy": partial(ours, "{data}_energy.yaml"),
    "joint Gaussian": partial(closed_form, "joint"),
    "ridge": partial(closed_form, "ridge"),
    "regression": partial(baseline, baselines.Regression, 1500),
    "density network": density_network,
    "flow": partial(baseline, baselines.ConditionalFlow, 600),
    "flow (unpaired)": partial(baseline, baselines.ConditionalFlow, 600, unpaired_weight=1.0, spline=False),
    "flow matching": partial(baseline, baselines.FlowMatching, 3000),
    "CGAN": partial(adversarial, baselines.CGAN, 1000),
    "UGAN+l2": partial(adversarial, baselines.UGAN, 1000),
}
