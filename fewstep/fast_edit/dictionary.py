"""Known edits by name: what stands in the picture, what shall stand there, and how far back to go for it."""

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fewstep.choices import require_choice
from fewstep.fast_edit.direction.templates import TEMPLATE_SETS
from fewstep.fast_edit.direction.text_direction import text_pairs
from fewstep.one_line import one_line

BUILT_IN = Path(__file__).with_name("edits.yaml")
DOMAINS = ("face", "dog", "church", "bedroom", "avatar")


@dataclass(frozen=True)
class KnownEdit:
    """source, target: texts in pairs, see `text_direction`. t0: time in (0, 1] up to which pictures are noised.

    domain: what the pictures show. templates: a name of `prompt_templates`. ValueError in one line.
    """

    name: str
    domain: str
    source: tuple[str, ...]
    target: tuple[str, ...]
    t0: float
    templates: str = "imagenet"

    def __post_init__(self) -> None:
        require_choice("domain", self.domain, DOMAINS)
        text_pairs(self.source, self.target)
        require_choice("templates", self.templates, TEMPLATE_SETS)
        if isinstance(self.t0, bool) or not isinstance(self.t0, int | float) or not 0 < self.t0 <= 1:
            raise ValueError(f"t0={self.t0!r}: must be a time in (0, 1], a share of the schedule")


def known_edit(name: str, path: str | Path = BUILT_IN) -> KnownEdit:
    """The edit of this name; ValueError in one line with the names near it."""
    edits = read_edits(path)
    if name not in edits:
        near = ", ".join(difflib.get_close_matches(name, edits, 3, 0.5)) or ", ".join(sorted(edits))
        raise ValueError(f"no edit {name!r} in {Path(path).name}; did you mean {near}? Or give source and target texts")
    return edits[name]


def read_edits(path: str | Path = BUILT_IN) -> dict[str, KnownEdit]:
    """All edits of a YAML file, by name. ValueError in one line that names the file and the entry."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        entries = yaml.safe_load(text)
        node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, yaml.YAMLError, KeyError, ValueError, AttributeError) as error:  # the last three: of odd tags
        raise ValueError(f"cannot read the edits of {path}: {one_line(error)}") from None
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"{path}: must map names to edits, name: {{domain, source, target, t0}}")
    names = [key.value for key, _ in node.value]
    if twice := sorted({name for name in names if names.count(name) > 1}):  # YAML would keep the last
        raise ValueError(f"{path}: {twice[0]} stands twice; rename one")
    return {str(name): _edit(path, str(name), entry) for name, entry in entries.items()}


def _edit(path: str | Path, name: str, entry: Any) -> KnownEdit:
    needed = {"domain", "source", "target", "t0"}
    if not isinstance(entry, dict) or not needed <= set(entry) <= {*needed, "templates"}:
        raise ValueError(f"{path}: {name} needs {', '.join(sorted(needed))} and may have templates, nothing else")
    texts = {side: _texts(entry[side]) for side in ("source", "target")}
    try:
        return KnownEdit(name, **{**entry, **texts})
    except ValueError as error:
        raise ValueError(f"{path}: {name}: {error}") from None


def _texts(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)
