"""The captions of the pictures in a folder: from the .txt files beside them or from a table, by lines if asked."""

import json
from pathlib import Path

from datamodules.bad_sample import BadSample
from datamodules.captions import captions_of
from fewstep.files.text_files import decode_text, numbered_lines

LONG = 1000  # characters, about three times what any text encoder here reads


class Captions:
    """{picture: captions, or the .txt that holds one}, and how many texts were long or had several lines.

    lines: "first", a text stands for its first line; "all", each of its lines is a caption; None, it is one caption.
    """

    def __init__(self, sources: dict[str, list[str] | Path], lines: str | None = None, encoding: str | None = None):
        self.sources, self.lines, self.encoding = sources, lines, encoding
        self.many: list[str] = []  # pictures whose texts have several lines
        self.long: list[str] = []  # pictures with a caption of more than LONG characters

    def __contains__(self, picture: str) -> bool:
        return picture in self.sources

    def __len__(self) -> int:
        return len(self.sources)

    def files(self) -> list[Path]:
        """The texts that captions are read from, where they do not come from a table."""
        return [source for source in self.sources.values() if isinstance(source, Path)]

    def of(self, picture: str) -> list[str]:
        """At least one, without white space around it; BadSample as in `captions_of`."""
        source = self.sources.get(picture)
        if isinstance(source, Path):
            captions, _ = captions_of(self._text(source), None)
        else:
            captions, _ = captions_of(None, None if source is None else json.dumps({"captions": source}).encode())
        lines = [[line for _, line in numbered_lines(caption)] for caption in captions]
        if self.lines:
            captions = [line for some in lines for line in (some[:1] if self.lines == "first" else some)]
        if any(len(some) > 1 for some in lines):
            self.many.append(picture)
        if max(map(len, captions)) > LONG:
            self.long.append(picture)
        return captions

    def told(self) -> list[str]:
        """What a user should know of the texts that were read, a line for each."""
        told = []
        if self.many:
            became = {
                None: "each is one caption; --caption-lines first keeps its first line, all makes a caption of each",
                "first": "of each only the first line is kept",
                "all": "each line is a caption",
            }[self.lines]
            told.append(f"texts with several lines: {len(self.many)}, such as that of {self.many[0]!a}; {became}")
        if self.long:
            example = f"such as one of {self.long[0]!a}; text encoders read about the first 300"
            told.append(f"captions of more than {LONG} characters: {len(self.long)} pictures, {example}")
        return told

    def _text(self, path: Path) -> bytes:
        content = content_of(path)
        if self.encoding is None:
            return content
        try:
            return decode_text(content, path.name, self.encoding).encode()
        except ValueError as error:
            raise BadSample("not_utf8", str(error)) from error


def content_of(path: Path) -> bytes:
    """The bytes of a file; BadSample where it cannot be read, or is a device or a pipe, which might never end."""
    try:
        if path.exists() and not path.is_file():
            raise BadSample("unreadable", "a device or a pipe, not a file")
        return path.read_bytes()
    except OSError as error:
        raise BadSample("unreadable", str(error)) from error
