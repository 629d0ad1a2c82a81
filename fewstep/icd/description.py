"""icd.json, which says what the students beside it are; an export may come from anybody."""

from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

from fewstep.distillation.boundaries import Boundaries
from fewstep.distillation.students import MOST_RANK
from fewstep.files.plain_json import read_json
from fewstep.files.plain_reader import each, either, fields, mapping, number, optional, positive, shown, text, whole
from fewstep.icd.code_scale import code_scale

SCHEMA = 1


def read_description(folder: str | Path) -> dict[str, Any]:
    """What FOLDER/icd.json says; ValueError in one line where a part is lacking or of another kind."""
    try:
        told = read_json(Path(folder, "icd.json"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {folder}/icd.json ({error}); give the export folder of an ICD run") from None
    try:
        if not isinstance(told, dict):
            raise ValueError(f"it is {shown(told)}, no mapping")
        PARTS(told, "")
        if told["schema"] != SCHEMA:
            raise ValueError(f"schema is {told['schema']}, expected {SCHEMA}")
    except ValueError as error:
        raise ValueError(f"{folder}/icd.json is not what an ICD run exports: {error}") from None
    return told


def students(value: Any, name: str) -> None:
    fields({"kind": either("lora", "full")})(value, name)
    if value["kind"] == "lora":
        fields({"rank": rank, "alpha": positive}, targets=optional(each(text)))(value, name)


def rank(value: Any, name: str) -> None:
    whole(value, name)
    if not 1 <= value <= MOST_RANK:
        raise ValueError(f"{name} is {shown(value)}, expected a whole number from 1 to {MOST_RANK}")


def boundaries(value: Any, name: str) -> None:
    mapping(value, name)
    if unknown := value.keys() - {field.name for field in fields_of(Boundaries)}:
        raise ValueError(f"{name} has an unknown key {shown(min(unknown))}")
    fields({"times": each(number)}, start=number, reverse_times=optional(each(number)))(value, name)


def scales(value: Any, name: str) -> None:
    each(positive)(value, name)
    if not value:
        raise ValueError(f"{name} is empty")


PARTS = fields(
    {
        "schema": whole,
        "pipeline": text,
        "network": optional(text),
        "students": students,
        "guidance_scales": scales,
        "boundaries": boundaries,
    },
    code_scale=optional(code_scale),  # exports of earlier versions have none
)
