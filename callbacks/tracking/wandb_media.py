"""Tables, histograms and pages as wandb takes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from callbacks.tracking.finite import finite_columns


def histograms(values: Mapping[str, Any]) -> dict[str, Any]:
    """log key -> [N] numbers; those that are not finite are left out, and keys without any other."""
    import wandb

    return {key: wandb.Histogram(column) for key, column in finite_columns(values).items()}


def sample_table(columns: list[str], rows: Sequence[Sequence[Any]], folder: str | Path) -> Any:
    """A wandb.Table; entries of type bytes are PNG pictures, written to `folder` until the table has been logged."""
    import wandb

    def cell(value: Any, name: str) -> Any:
        if not isinstance(value, bytes):
            return value
        path = Path(folder, f"{name}.png")
        path.write_bytes(value)
        return wandb.Image(str(path))

    cells = [[cell(value, f"{i}-{j}") for j, value in enumerate(row)] for i, row in enumerate(rows)]
    return wandb.Table(columns=columns, data=cells)


def as_pages(pages: Mapping[str, str]) -> dict[str, Any]:
    """log key -> wandb.Html of what it shows."""
    import wandb

    return {key: wandb.Html(html, inject=False) for key, html in pages.items()}
