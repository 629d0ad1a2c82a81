"""Known edits by name: what stands in the picture, what shall stand there, and how far back to go for it."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fewstep.choices import require_choice
from fewstep.fast_edit.direction.templates import Templates, check_templates
from fewstep.fast_edit.direction.text_direction import text_pairs
from fewstep.one_line import one_line

BUILT_IN = Path(__file__).with_name("edits.yaml")
NEEDED = {"domain", "source", "target", "t0"}
OPTIONAL = ("templates", "judge_source", "judge_target", "judge_templates", "asked")
TEXTS = ("source", "target", "judge_source", "judge_target", "judge_templates")
DOMAINS = ("face", "dog", "church", "bedroom", "avatar")


@dataclass(frozen=True)
class KnownEdit:
    """source, target: texts in pairs, see `text_direction`. t0: time in (0, 1] up to which pictures are noised, a share
    of DDPM's linear schedule, see `base_times`.

    domain: what the pictures show. templates: see `prompt_templates`. judge_source, judge_target: the same edit
    in the words of the CLIP that judges it, each to be put into each of judge_templates; none where it reads the same
    words. asked: {attribute: value}, what a reader of attributes shall find. ValueError in one line.
    """

    name: str
    domain: str
    source: tuple[str, ...]
    target: tuple[str, ...]
    t0: float
    templates: Templates = "imagenet"
    judge_source: tuple[str, ...] = ()
    judge_target: tuple[str, ...] = ()
    judge_templates: tuple[str, ...] = ("{}",)
    asked: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_choice("domain", self.domain, DOMAINS)
        text_pairs(self.source, self.target)
        check_templates(self.templates)
        if isinstance(self.t0, bool) or not isinstance(self.t0, int | float) or not 0 < self.t0 <= 1:
            raise ValueError(f"t0={self.t0!r}: must be a time in (0, 1], a share of the schedule")
        if self.judge_source or self.judge_target:
            text_pairs(self.judge_source, self.judge_target)
        check_templates(self.judge_templates)
        if not isinstance(self.asked, dict) or not all(
            isinstance(word, str) and word for pair in self.asked.items() for word in pair
        ):
            raise ValueError(f"asked={self.asked!r}: give {{attribute: value}}, both texts")

    def judge_sentences(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(before, after), sentences in pairs, for the CLIP that judges."""
        before, after = (
            tuple(template.replace("{}", text) for template in self.judge_templates for text in texts)
            for texts in (self.judge_source, self.judge_target)
        )
        return before, after


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
    if not isinstance(entry, dict) or not NEEDED <= set(entry) <= {*NEEDED, *OPTIONAL}:
        told = f"needs {', '.join(sorted(NEEDED))} and may have {', '.join(OPTIONAL)}, nothing else"
        raise ValueError(f"{path}: {name} {told}")
    texts: dict[str, Any] = {key: _texts(entry[key]) for key in TEXTS if key in entry}
    if isinstance(entry.get("templates"), list):
        texts["templates"] = tuple(entry["templates"])
    try:
        return KnownEdit(name, **{**entry, **texts})
    except ValueError as error:
        raise ValueError(f"{path}: {name}: {error}") from None


def _texts(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else (value,)
