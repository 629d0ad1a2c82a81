"""What a user may write for a local file or folder: a path, ~/.., a file:// address, either normal form of unicode."""

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit


def local_path(text: str) -> str:
    """The path that is meant; addresses of other schemes, and paths that are there as written, come back as they are.

    Of a name with accents the form on the disk is taken, composed or decomposed (as macOS unpacks it).
    ValueError in one line for a file:// address of another host, and for a path of Windows.
    """
    if re.match(r"file:/", text, re.IGNORECASE):
        text = _of_address(text)
    elif "://" in text:
        return text
    if text == "~" or text.startswith("~/"):
        text = os.path.expanduser(text)
    if os.name != "nt" and re.match(r"[A-Za-z]:\\", text) and not os.path.lexists(text):
        raise ValueError(f"{text} is a path of Windows; give one of this machine, such as /mnt/{text[0].lower()}/..")
    return text if text.isascii() or os.path.lexists(text) else _as_on_disk(text)


def where(path: str) -> str:
    """` in FOLDER` for a path that is taken from the folder which the command was started in; else nothing."""
    return "" if os.path.isabs(path) or "://" in path else f" in {os.getcwd()}"


def expanded(text: str) -> Iterator[str]:
    """The paths or addresses that a brace expansion stands for; a path that is there as written stands for itself.

    ValueError in one line for a brace without its partner.
    """
    from braceexpand import braceexpand

    if "{" not in text or ("://" not in text and Path(text).exists()):
        yield text
        return
    try:
        yield from braceexpand(text)
    except ValueError as error:
        raise ValueError(f"{text}: {error}; write {{000..012}}, with both braces") from error


def _of_address(text: str) -> str:
    """The path of a file:// address; its %20 and the like are signs of a name, unless that very name is there."""
    rest = text[len("file:") :]
    path = rest[2:] if rest.startswith("///") else rest
    if rest.startswith("//") and not rest.startswith("///"):
        host = urlsplit(text).netloc
        if host.lower() not in ("", "localhost"):
            raise ValueError(f"{text} names the host {host!r}; write file:///path, with three slashes")
        path = rest[2 + len(host) :]
    if "::" in path and not os.path.lexists(path):
        raise ValueError(f"refusing {text!r}: chained addresses are not read; give the path alone")
    return path if os.path.lexists(path) else unquote(path)


def _as_on_disk(text: str) -> str:
    """The path with each part as the folder spells it, as far as there are such files; the rest as it was given."""
    found = Path(text[:1] if text.startswith("/") else "")
    for part in Path(text).parts:
        found = found / (part if os.path.lexists(found / part) else _spelled_in(found, part))
    return str(found)


def _spelled_in(folder: Path, name: str) -> str:
    """The name in this folder that is the same text in another normal form; the name itself if there is none."""
    wanted = unicodedata.normalize("NFC", name)
    if name.isascii() or not folder.is_dir():
        return name
    return next((other for other in os.listdir(folder) if unicodedata.normalize("NFC", other) == wanted), name)
