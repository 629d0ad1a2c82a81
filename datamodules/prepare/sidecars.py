"""Which text file belongs to which picture of a folder."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath


def texts_of(pictures: Iterable[str], texts: Iterable[str]) -> dict[str, str]:
    """{picture: its text}, of paths in one folder; pictures without one are absent.

    A text has the picture's path but for the suffix, in this normal form of unicode or, if that leaves no doubt, in the
    other. Of several (`a.txt`, `a.TXT`) the one in lower case counts.
    """
    stems = {picture: stem(picture) for picture in pictures}
    exact = {stem(text): text for text in sorted(texts, key=lambda text: (text.endswith(".txt"), text))}
    texts_alike, pictures_alike = Counter(map(composed, exact)), Counter(map(composed, set(stems.values())))
    alike = {composed(name): text for name, text in exact.items() if texts_alike[composed(name)] == 1}
    found = {}
    for picture, name in stems.items():
        only = pictures_alike[composed(name)] == 1
        if text := exact.get(name) or (alike.get(composed(name)) if only else None):
            found[picture] = text
    return found


def stem(path: str) -> str:
    """The path without its suffix."""
    return str(PurePosixPath(path).with_suffix(""))


def composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
