"""What an edit's file says beside its weights: what it is, how it was learnt and judged, and how it is applied."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from fewstep.choices import require_range
from fewstep.fast_edit.application import Application, StrengthOf
from fewstep.fast_edit.direction.templates import Templates, check_templates
from fewstep.fast_edit.direction.text_direction import text_pairs
from fewstep.fast_edit.encoding import Encoding, Kind
from fewstep.fast_edit.estimates import GradientMode, Mode
from fewstep.files.names import LONGEST
from fewstep.files.plain_reader import (
    each,
    either,
    fields,
    flag,
    mapping,
    named,
    number,
    optional,
    positive,
    refuse,
    text,
    whole,
)

SCHEMA = 1
MOST_STEPS = 1000
VERSIONS_OF = ("fewstep", "torch", "diffusers", "peft")


@dataclass(frozen=True)
class EditAbout:
    """What an edit is of and how it was learnt and judged; with its weights, all that a file holds.

    source, target: texts in pairs, see `text_direction`. base: what it was called, a folder or a hub id. gradient,
    encoding: of its training. application: how it is applied unless something else is asked for. All times are those of
    DDPM's linear schedule, see `base_times`. audit: the report, of plain values; None where nobody has judged it.
    forced: whether it was kept though the audit had failed. clips: that it was learnt from, judge: the CLIP that was
    held out, as `load_edit_clip` takes them; enlarge: how they were shown pictures. judge_source, judge_target:
    sentences in pairs for the judge, where it reads other words; else empty.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    base: str
    gradient: GradientMode = field(default_factory=GradientMode)
    encoding: Encoding = field(default_factory=Encoding)
    application: Application = field(default_factory=Application)
    templates: Templates = "imagenet"
    audit: Mapping[str, Any] | None = None
    forced: bool = False
    clips: tuple[str, ...] = ()
    judge: str | None = None
    enlarge: int = 1
    judge_source: tuple[str, ...] = ()
    judge_target: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        text_pairs(self.source, self.target)
        if self.judge_source or self.judge_target:
            text_pairs(self.judge_source, self.judge_target)
        check_templates(self.templates)
        self.gradient.check(self.encoding)


def told_of(about: EditAbout) -> dict[str, Any]:
    """Plain values of it, with the schema, and the versions of what is at work."""
    versions = {}
    for package in VERSIONS_OF:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"schema": SCHEMA, **asdict(about), "versions": versions}


def about_of(told: Mapping[str, Any]) -> EditAbout:
    """The reverse, of what `check_told` has let pass; ValueError or TypeError for values that do not go together."""
    application = told["application"]
    return EditAbout(
        tuple(told["source"]),
        tuple(told["target"]),
        told["base"]["name"],
        GradientMode(**told["gradient"]),
        Encoding(**told["encoding"]),
        Application(**{**application, "encoding": Encoding(**application["encoding"])}),
        told["templates"] if isinstance(told["templates"], str) else tuple(told["templates"]),
        told["audit"],
        told["forced"],
        tuple(told["clips"]),
        told["judge"],
        told["enlarge"],
        tuple(told.get("judge_source", ())),
        tuple(told.get("judge_target", ())),
    )


def check_told(told: Any) -> None:
    """ValueError in one line for what is not the header of an edit."""
    if not isinstance(told, dict) or told.get("schema") != SCHEMA:
        schema = told.get("schema") if isinstance(told, dict) else told
        raise ValueError(f"it has schema {schema!r:.40}, this version of fewstep reads {SCHEMA}")
    HEADER(told, "")
    if told["kind"] == "lora":
        LORA(told, "")


def check_name(value: Any, name: str) -> None:
    """Of Python, as the modules that hold adapters need it."""
    if type(value) is not str or not (value.isidentifier() and value.isascii()) or len(value) > LONGEST:
        refuse(value, name, f"a name of letters, digits and _, at most {LONGEST} of them")


def _templates(value: Any, name: str) -> None:
    (text if isinstance(value, str) else each(text))(value, name)


def _steps(value: Any, name: str) -> None:
    whole(value, name)
    require_range(name, value, 1, MOST_STEPS)


ENCODING = fields({"t0": positive, "kind": either(*get_args(Kind)), "num_steps": _steps})
GRADIENT = fields(
    {"mode": either(*get_args(Mode)), "t_lo": positive, "checkpointing": flag}
    | dict.fromkeys(("num_steps", "last_k"), _steps)
)
APPLICATION = fields(
    {"encoding": ENCODING, "residual": flag, "strength_of": either(*get_args(StrengthOf))}
    | dict.fromkeys(("num_steps", "projection_steps"), _steps)
    | dict.fromkeys(("split", "strength", "projection"), number)
)
BASE = fields({"name": text, "sha256": text})
LORA = fields({"rank": _steps, "alpha": positive, "targets": each(text)})
HEADER = fields(
    {"name": check_name, "base": BASE, "kind": either("lora", "full"), "templates": _templates, "forced": flag}
    | {"gradient": GRADIENT, "encoding": ENCODING, "application": APPLICATION, "audit": optional(mapping)}
    | {"source": each(text), "target": each(text), "versions": named(text)}
    | {"clips": each(text), "judge": optional(text), "enlarge": _steps},
    judge_source=each(text), judge_target=each(text),
)  # fmt: skip
