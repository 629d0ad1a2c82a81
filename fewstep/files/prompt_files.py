"""Lists of prompts that users write: one to a line, or objects of JSON with what is asked beside the prompt."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewstep.files.names import distinct, numbered_safely, safe_name
from fewstep.files.plain_json import parse_json
from fewstep.files.text_files import numbered_lines, read_text
from fewstep.one_line import one_line

FIELDS = ("prompt", "key", "attributes", "image", "control")


@dataclass(frozen=True)
class Prompt:
    """key: names its picture and its noise. attributes: what is asked, for oracles that read it, or None.

    image: the file of a picture that is edited as the prompt says, or None. control: that of a picture that a control
    network reads, such as edges or a pose, or None.
    """

    text: str
    key: str
    attributes: Any = None
    image: str | None = None
    control: str | None = None


def key_of_line(number: int, digits: int, text: str) -> str:
    """The key of a prompt without one of its own: the number of its line, and how it begins."""
    return safe_name(f"{number:0{digits}d}-{text}"[:48])


def read_prompt_file(path: str | Path) -> list[Prompt]:
    """Of a .txt file, a prompt to a line, or of a .jsonl file, objects with `prompt`, and perhaps others of FIELDS.

    ValueError in one line, with the number of the line, for what is none.
    """
    lines = list(numbered_lines(read_text(path)))
    if not lines:
        raise ValueError(f"{path} holds no prompt; write one to a line")
    digits = len(str(lines[-1][0]))
    objects = Path(path).suffix.lower() == ".jsonl"
    found = []
    for number, line in lines:
        row = _object(line, f"{path}: line {number}") if objects else {"prompt": line}
        key = row.get("key") or key_of_line(number, digits, row["prompt"])
        found.append(Prompt(row["prompt"], safe_name(key), *(row.get(name) for name in FIELDS[2:])))
    keys = distinct((prompt.key for prompt in found), numbered_safely)
    return [replace(prompt, key=key) for prompt, key in zip(found, keys, strict=True)]


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON: {one_line(error, 100)}") from None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise ValueError(f'{where}: give an object with a prompt, such as {{"prompt": "a red square"}}')
    if unknown := [name for name in row if name not in FIELDS]:
        raise ValueError(f"{where} has {one_line(unknown[0], 40)!r}; fields are {', '.join(FIELDS)}")
    if not isinstance(row.get("key", ""), str):
        raise ValueError(f"{where}: its key is no text")
    for name in ("image", "control"):
        if row.get(name) is not None and (not isinstance(row[name], str) or not row[name].strip()):
            raise ValueError(f"{where}: its {name} is no name of a file")
    return row
