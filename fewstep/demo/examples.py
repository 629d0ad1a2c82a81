"""Pictures to begin with, which a folder brings along: FOLDER/examples.json and the pictures that it names.

A list of {"image": "NAME.webp", "source": "its caption", "target": "the caption it shall have"}. Anybody may have
written it: no name leads out of the folder, and every picture is read before the page is.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from PIL.Image import Image

from fewstep.files.pictures import read_picture, to_picture
from fewstep.files.plain_json import read_json
from fewstep.icd.description import read_description
from fewstep.icd.prompt_alignment import STOP_WORDS
from fewstep.one_line import one_line

FIELDS = {"image", "source", "target"}
MOST = 64  # examples: the page shows them all
LONGEST = 1000  # characters of a caption


@dataclass(frozen=True)
class Example:
    """image: a file with a picture; source: what it shows; target: what it could show."""

    image: Path
    source: str
    target: str

    @property
    def change(self) -> str:
        """The words of the target that are new where they stand or, if there are none, "no" and the old ones."""
        words = (re.findall(r"[\w'’-]+", text) for text in (self.source, self.target))
        old, new = ([word for word in some if word.lower() not in STOP_WORDS] for some in words)
        spans = [span for kind, *span in SequenceMatcher(None, old, new, False).get_opcodes() if kind != "equal"]
        gone = [word for start, end, _, _ in spans for word in old[start:end]]
        came = [word for _, _, start, end in spans for word in new[start:end]]
        return " ".join(came or ["no", *gone]) if spans else self.target


def known_examples(pipeline: str | None, export: str | Path) -> Path | None:
    """The examples of avatars that lie beside the teacher of an export, where that is assets/sd_avatars."""
    try:
        teacher = Path(pipeline or read_description(export)["pipeline"])
    except ValueError:
        return None  # whoever loads the export says what is wrong with it
    folder = teacher.with_name("avatar_examples")
    return folder if teacher.name == "sd_avatars" and (folder / "examples.json").is_file() else None


def read_examples(folder: str | Path) -> list[Example]:
    """At least one; ValueError in one line that names file, entry and remedy."""
    file = Path(folder, "examples.json")
    try:
        entries = read_json(file)
    except OSError as error:
        raise ValueError(f"cannot read {file} ({error.strerror}); name a folder with an examples.json") from None
    except ValueError as error:
        raise ValueError(f"{file}: {one_line(error)}; write a JSON list of examples") from None
    if not isinstance(entries, list) or not 1 <= len(entries) <= MOST:
        raise ValueError(f"{file} holds no list of 1 to {MOST} examples; write [{{image, source, target}}, ..]")
    examples = []
    for number, entry in enumerate(entries, 1):
        try:
            examples.append(_example(entry, Path(folder)))
        except ValueError as error:
            raise ValueError(f"{file}, entry {number}: {error}") from None
    return examples


class Beginnings:
    """What the fields of the page hold at first and after a click: pictures of the model's size, and captions."""

    def __init__(self, examples: Sequence[Example], image_size: tuple[int, int]) -> None:
        self.examples = examples
        self.pictures = [to_picture(read_picture(example.image, image_size)) for example in examples]

    def of(self, number: int) -> tuple[Image | None, str, str]:
        """(picture, source, target)."""
        return self.pictures[number], self.examples[number].source, self.examples[number].target

    def first(self) -> tuple[Image | None, str, str]:
        """The same of the first example; nothing where there are none."""
        return self.of(0) if self.examples else (None, "", "")

    def prompts(self) -> list[str]:
        """All captions, each once."""
        return list(dict.fromkeys(text for one in self.examples for text in (one.source, one.target)))


def _example(entry: Any, folder: Path) -> Example:
    if not isinstance(entry, dict) or entry.keys() != FIELDS:
        found = ", ".join(map(ascii, entry)) if isinstance(entry, dict) else ascii(entry)
        raise ValueError(f"its fields are {one_line(found or 'none', 80)}; give image, source and target, no others")
    for name in ("source", "target"):
        caption = entry[name]
        if not isinstance(caption, str) or not caption.strip() or len(caption) > LONGEST:
            shown = one_line(ascii(caption), 80)
            raise ValueError(f"{name} is {shown}; give a caption of 1 to {LONGEST} characters")
    image = folder / _plain_name(entry["image"])
    if image.is_symlink() or not image.is_file():
        raise ValueError(f"there is no file {entry['image']!a} beside it; put the picture there, no link to it")
    try:
        read_picture(image, 1)
    except (ValueError, OSError) as error:
        raise ValueError(f"{one_line(error)}; replace the picture, or take the entry out") from None
    return Example(image, entry["source"].strip(), entry["target"].strip())


def _plain_name(name: Any) -> str:
    """The name of a file in the folder itself, and of no hidden one."""
    plain = isinstance(name, str) and name.isprintable() and re.fullmatch(r"[^./\\][^/\\]{0,254}", name)
    if not plain:
        shown = one_line(ascii(name), 80)
        raise ValueError(f"image is {shown}; give the name of a picture in this folder, without / and \\")
    return name
