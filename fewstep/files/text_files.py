"""Text files that users write: prompts, tables, JSON lines. UTF-8, or what their byte order mark says."""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

MARKS = {  # the first that fits; UTF-32's begins as UTF-16's does
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: str | Path, encoding: str | None = None, option: str = "") -> str:
    """The whole text, its line ends as they are, without a byte order mark.

    encoding: None for UTF-8, or UTF-16 or UTF-32 with their marks. option: what names an encoding on the command line,
    if anything does. ValueError in one line that names the file, the line and a remedy.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; give a file") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return decode_text(content, str(path), encoding, option)


def decode_text(content: bytes, name: str, encoding: str | None = None, option: str = "") -> str:
    """As `read_text`, of bytes that are called `name`."""
    check_encoding(encoding, option)
    asked = encoding or next((kind for mark, kind in MARKS.items() if content.startswith(mark)), "utf-8")
    remedy = "save it as UTF-8" + (f", or name its encoding with {option}" if option else "")
    try:
        text = content.decode(asked).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        called = "UTF-8" if asked.startswith("utf-8") else asked
        raise ValueError(
            f"{name} is not {called} text: {error.reason} at byte {error.start}, line {line}; {remedy}"
        ) from None
    if "\0" in text:  # UTF-16 without its mark, or no text at all
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{name} is not UTF-8 text: it holds zero bytes, line {line}; {remedy}")
    return text


def check_encoding(encoding: str | None, option: str = "") -> None:
    """ValueError in one line for what is no encoding of text; None is one that the text tells itself."""
    try:
        "a".encode(encoding or "utf-8")
    except (LookupError, UnicodeError):
        raise ValueError(f"{option or 'encoding'} {encoding}: no such encoding; try latin-1 or utf-16") from None


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    r"""(number from 1, line) of the lines that are not blank, without white space around them.

    Lines end at \n, \r\n and \r. `str.splitlines` would also cut at form feeds, U+0085, U+2028 and others, which are
    part of a prompt. A byte order mark at the start of a line is what joined files leave.
    """
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if stripped := line.removeprefix("\ufeff").strip():
            yield number, stripped
