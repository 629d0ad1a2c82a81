"""Sizes of a conditional model that its config leaves out, by the table that it is to learn: columns and components.

They become flags, so that the config that a run saves, and its checkpoints, tell them as if somebody had.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from commands import config_text
from commands.config_errors import read_configs
from commands.packaged_places import located
from commands.train.scan import scan

DATA, MODEL = "PairedVectorsDataModule", "model.model"
SIZED = {  # class of the network -> what is taken from the table if its dimensions are left out
    "LightTransport": ("x_dim", "y_dim", "num_potential", "num_cost"),
    "EnergyTransport": ("x_dim", "y_dim"),
    "DiscreteTransport": ("x_dim",),
    "StackedTransport": ("x_dim", "y_dim"),
}
ROWS = {"path": str, "num_pairs": int | None, "val_fraction": float | int}  # of the data: what decides the sizes
PAIRS_OF = {"num_potential": (16, 50), "num_cost": (32, 25)}  # training pairs for each, and the most there are

say = rank_zero_only(print)


def with_table_sizes(argv: list[str]) -> list[str]:
    """The arguments and those sizes that neither a config nor a flag gives, where a dimension is among them.

    Errors: ValueError in one line for data that are not there.
    """
    if argv[:1] == ["predict"] or {"-h", "--help"} & set(argv):
        return argv
    given = dict(_given(argv))
    network = str(given.get(f"{MODEL}.class_path")).rpartition(".")[2]
    lacking = [name for name in SIZED.get(network, ()) if f"{MODEL}.{name}" not in given]
    rows = {name: given[f"data.{name}"] for name in ROWS if f"data.{name}" in given}
    is_table = str(given.get("data.class_path")).rpartition(".")[2] == DATA and "path" in rows
    if not {"x_dim", "y_dim"} & set(lacking) or not is_table:
        return argv
    if not all(isinstance(value, ROWS[name]) and not isinstance(value, bool) for name, value in rows.items()):
        return argv  # the parser says so
    from datamodules import PairedVectorsDataModule

    data = PairedVectorsDataModule(**located(rows))
    sizes = {"x_dim": data.x_dim, "y_dim": data.y_dim, **components(data.num_train)}
    found = {name: sizes[name] for name in lacking}
    if not any(word.startswith("--print_config") for word in argv):
        told = ", ".join(f"{name} {size}" for name, size in found.items())
        say(f"sizes   {told} by {data.num_train} training pairs in {rows['path']}")
    return [*argv, *(f"--{MODEL}.{name}={size}" for name, size in found.items())]


def components(num_train: int) -> dict[str, int]:
    """Components of the potential and of the cost by the number of training pairs, in proportion and bounded."""
    return {name: min(most, max(1, num_train // each)) for name, (each, most) in PAIRS_OF.items()}


def _given(argv: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(key without `init_args`, value) of the configs and then of the flags; the later one counts."""
    for content in read_configs(scan(argv).config).values():
        yield from _leaves(content)
    for place, word in enumerate(argv):
        key, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not key.startswith(("data", "model")):
            continue
        try:
            value = config_text.read(text if equals else "".join(argv[place + 1 : place + 2]))
        except (ValueError, yaml.YAMLError):  # the parser says so
            continue
        if key in ("data", "model") and isinstance(value, str):
            value = {"class_path": value}
        yield from _leaves({key: value})


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{prefix}{key}".replace(".init_args", "")
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value
