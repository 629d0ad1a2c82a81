"""How the pictures of this room look, and what they call an oracle."""

from pathlib import Path
from typing import Any

GREY, INK = "#777777", "#333333"
STYLE: dict[Any, Any] = (
    dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    | dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0)
    | dict.fromkeys(("axes.spines.top", "axes.spines.right"), False)
    | {"font.size": 8.5, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.edgecolor": "#BBBBBB"}
    | {"axes.grid": True, "axes.axisbelow": True, "grid.color": "#E6E6E6", "grid.linewidth": 0.6}
)


def short_name(oracle: str) -> str:
    """Of NAME=FOLDER/LAST, NAME LAST."""
    kind, _, source = oracle.partition("=")
    return f"{kind} {Path(source).name}"[:40].strip()
