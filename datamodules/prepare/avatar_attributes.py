"""Which attributes an avatar has, which edits of it there are, and which split it belongs to.

An avatar is a name; every choice is a hash of that name and of what is chosen: nothing depends on what else is drawn.
"""

from collections.abc import Mapping

from datamodules.prepare.avatar_styles import HIDES, RARE, STYLES
from datamodules.prepare.hashed_share import share

Attributes = Mapping[str, str]  # {attribute: value}
SPLITS = {"train": 0.8, "val": 0.1, "test": 0.1}  # shares of all combinations


def pick(choices: list, *words: str):
    return choices[int(share("avatar", *words) * len(choices))]


def attributes_of(style: str, avatar: str) -> dict[str, str]:
    """{attribute: value} of the avatar named `avatar`."""
    drawn = {}
    for name, values in STYLES[style].attributes.items():
        absent = name in RARE and share("avatar", avatar, name, "absent") < RARE[name]
        worn = [value for value in values if value != "none"]
        drawn[name] = "none" if absent else pick(worn, avatar, name)
    return drawn


def options_of(style: str, avatar: str, attributes: Attributes) -> dict:
    """The options for DiceBear, each a list of exactly one choice or a number, so that nothing is left to its seed."""
    options = dict(STYLES[style].identity)
    for name, value in attributes.items():
        options |= STYLES[style].attributes[name][value]
    return {
        name: [pick(choices, avatar, name, *choices[:1])] if isinstance(choices, list) else choices
        for name, choices in options.items()
    }


def may_be_hidden(attributes: Attributes) -> tuple[str, ...]:
    """Attributes that something worn may cover."""
    return tuple(name for worn, below in HIDES.items() if attributes.get(worn, "none") != "none" for name in below)


def split_of(style: str, attributes: Attributes) -> str:
    """The split of all avatars with this combination of attributes that nothing can hide.

    No caption of a whole avatar stands in two splits: captions say nothing of what is hidden.
    """
    covered = may_be_hidden(attributes)
    combination = [f"{name}={value}" for name, value in attributes.items() if name not in covered]
    place = share("avatar split", style, *combination)
    for split, part in SPLITS.items():
        if place < part:
            return split
        place -= part
    return "test"


def edits(style: str, avatar: str, attributes: Attributes, kept: tuple[str, ...] = ()) -> list[tuple[str, dict]]:
    """(attribute that changes, all attributes after it) in the order of a hash; both ends are of one split.

    Left alone are `kept` and what may be hidden. Every attribute is as likely as any to come first.
    """
    names = [name for name in attributes if name not in (*may_be_hidden(attributes), *kept)]
    found = []
    for name in sorted(names, key=lambda name: share("avatar", avatar, "edit", name)):
        values = [value for value in STYLES[style].attributes[name] if value != attributes[name]]
        for value in sorted(values, key=lambda value: share("avatar", avatar, "edit", name, value)):
            after = {**attributes, name: value}
            if split_of(style, after) == split_of(style, attributes):
                found.append((name, after))
    return found
