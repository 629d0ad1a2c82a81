"""Links inside a tar, resolved as `tarfile` does: to members of the same archive, never to anything outside of it.

A symbolic link means the last member of that name, counted from its own folder; a hard link the last one before it.
"""

import posixpath
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

MOST_STEPS = 40  # links that lead to links, as Linux allows
MOST_LINES = 100
MACOS = "__MACOSX/"  # the folder of attributes that macOS adds to archives
LONGEST_SHOWN = 80  # characters of a name


class Member(NamedTuple):
    """A regular file: its name, and where its bytes lie in the archive."""

    name: str
    offset: int
    size: int


class Special(NamedTuple):
    """A member without bytes of its own to read: what it is, "" for a directory; `target` only of links."""

    name: str
    what: str
    target: str = ""


SYMBOLIC, HARD = "a symbolic link", "a hard link"


def resolved(entries: Sequence[Member | Special]) -> tuple[list[Member], list[str]]:
    """The members that can be read, links as files of their own, and one line for each that is left out."""
    special = [place for place, entry in enumerate(entries) if isinstance(entry, Special)]
    if not special:
        return list(entries), []
    found: list[Member | Special | None] = list(entries)
    lines, places = [], None
    for place in special:
        entry = entries[place]
        if entry.target:
            places = places or places_of(entries)
            found[place] = linked(entries, places, place)
        if isinstance(found[place], Special) and entry.what and not hidden(entry.name):
            lines.append(left_out(entry))
    return [entry for entry in found if isinstance(entry, Member)], bounded(lines)


def places_of(entries: Sequence[Member | Special]) -> dict[str, list[int]]:
    """{plain name: the places of the members that have it, ascending}."""
    places = defaultdict(list)
    for place, entry in enumerate(entries):
        places[posixpath.normpath(entry.name)].append(place)
    return places


def linked(entries: Sequence[Member | Special], places: dict[str, list[int]], place: int) -> Member | Special:
    """What the link at this place leads to under the link's own name; the link itself if it leads to no file."""
    link, at = entries[place], place
    for _ in range(MOST_STEPS):
        entry = entries[at]
        if isinstance(entry, Member):
            return Member(link.name, entry.offset, entry.size)
        same = places.get(path_of(entry), [])
        if entry.what == HARD:
            same = same[: bisect_left(same, at)]
        if not entry.target or not same:
            break
        at = same[-1]
    return link


def path_of(link: Special) -> str:
    """Where in the archive a link points, "" if outside."""
    folder = posixpath.dirname(link.name) if link.what == SYMBOLIC else ""
    path = posixpath.normpath(posixpath.join(folder, link.target))
    return "" if path.startswith(("/", "../")) or path == ".." else path


def hidden(name: str) -> bool:
    """Whether a member is none of the user's files: a dotfile, or what macOS adds to archives."""
    return MACOS in name or posixpath.basename(name).startswith(".")


def left_out(entry: Special) -> str:
    name, target = entry.name[:LONGEST_SHOWN], entry.target[:LONGEST_SHOWN]
    if not entry.target:
        return f"{name!r} is left out: it is {entry.what}"
    where = "no file of the archive; pack the shard with tar --dereference" if path_of(entry) else "outside the archive"
    return f"{name!r} is left out: it is {entry.what} to {target!r}, {where}"


def bounded(lines: list[str]) -> list[str]:
    """At most MOST_LINES of them, and how many more there are."""
    more = len(lines) - MOST_LINES
    return [*lines[:MOST_LINES], f"{more} more members are left out"] if more > 0 else lines
