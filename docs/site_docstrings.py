"""Docstrings are plain text with the brackets and stars of mathematics, which Markdown would take for markup."""

import re
from typing import Any

import griffe

CODE = re.compile(r"(`[^`\n]*`)")
SECTION = re.compile(r"(Args|Arguments|Returns|Errors|Attributes):$")


class PlainText(griffe.Extension):
    """Escapes what Markdown would take for markup, outside of code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = escaped(obj.docstring.value)


def escaped(text: str) -> str:
    lines, in_section = [], False
    for line in text.split("\n"):
        if line and not line.startswith(" "):
            in_section = SECTION.fullmatch(line) is not None
        is_code = line.startswith("    ") and not in_section and not line.lstrip().startswith("* ")
        lines.append(line if is_code else "".join(map(_escaped, CODE.split(line))))
    return "\n".join(lines)


def _escaped(part: str) -> str:
    if part.startswith("`"):
        return part
    return re.sub(r"[\[\]]|(?<!^)(?<![ ]{4})\*", r"\\\g<0>", part.replace("<", "&lt;"))
