"""Sentences about rule-drawn avatars: captions from complete to terse, a second grammar for scorers, and requests.

Captions say what can be seen: of an attribute that something covers they say nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from datamodules.prepare.avatar_styles import STYLES

Seen = Mapping[str, str]  # {attribute that can be seen: value}
PLACES = {
    1: ("",),
    2: ("on the left", "on the right"),
    3: ("on the left", "in the middle", "on the right"),
    4: ("on the far left", "second from the left", "second from the right", "on the far right"),
}
NUMBERS = {2: "two", 3: "three", 4: "four"}
WORN = {"hat": "a {} hat", "glasses": "{}", "beard": "a beard", "freckles": "freckles", "earrings": "earrings"}
HAIR = ("hair_length", "hair_color")


class Caption(NamedTuple):
    text: str
    named: list[list[str]]  # of every person the attributes that the text settles, those that it denies among them


def captions(style: str, persons: Sequence[Seen]) -> list[Caption]:
    """Four captions of the persons from left to right, the complete one first and the tersest last.

    The complete one settles everything: a hat of which it says nothing is not there. The others settle what they name.
    """
    everything = [list(seen) for seen in persons]
    unsaid = ((), ("background",), ("background", "skin", "mouth"))
    named = [[[name for name in seen if name not in left_out] for seen in persons] for left_out in unsaid]
    named.append([_most_striking(seen) for seen in persons])
    said = [[[n for n in names if seen[n] != "none"] for names, seen in zip(c, persons, strict=True)] for c in named]
    texts = [caption(style, persons, names) for names in said]
    return [Caption(texts[0], everything), *(Caption(*pair) for pair in zip(texts[1:], said[1:], strict=True))]


def _most_striking(seen: Seen) -> list[str]:
    """What a person wears in the face and on the head, without any of it the hair, without that the shirt."""
    worn = [name for name in WORN if seen.get(name, "none") != "none"]
    return worn or [name for name in HAIR if name in seen] or [name for name in ("shirt", "skin") if name in seen][:1]


def caption(style: str, persons: Sequence[Seen], said: Sequence[Collection[str]]) -> str:
    """A sentence that says of every person these attributes."""
    people = [person(seen, names) for seen, names in zip(persons, said, strict=True)]
    words = STYLES[style]
    if len(persons) == 1:
        text = " ".join(filter(None, (words.words, people[0])))
    else:
        places = zip(PLACES[len(persons)], people, strict=True)
        text = ", ".join(
            [f"{NUMBERS[len(persons)]} {words.plural}", *(f"{place} one {them}" for place, them in places)]
        )
    return f"{text}, on a {persons[0]['background']} background" if "background" in said[0] else text


def person(seen: Seen, said: Collection[str]) -> str:
    """`with light skin and short brown hair, wearing a red shirt`, of what is to be said."""
    things = [f"{seen['skin']} skin"] if "skin" in said else []
    things += [f"a {seen['mouth']} mouth"] if "mouth" in said else []
    if hair := [seen[name] for name in HAIR if name in said]:
        things.append(" ".join([*hair, "hair"]))
    things += [words.format(seen[name]) for name, words in WORN.items() if name in said]
    shirt = [f"wearing a {seen['shirt']} shirt"] if "shirt" in said else []
    return ", ".join([*([f"with {joined(things)}"] if things else []), *shirt])


def scoring_caption(persons: Sequence[Seen]) -> str:
    """All that can be seen in another grammar, which generators are not trained on: `no hat` where there is none."""
    figures = ["figure"] if len(persons) == 1 else [f"figure {number}" for number in range(1, len(persons) + 1)]
    described = [f"{name}: {_listed(seen)}" for name, seen in zip(figures, persons, strict=True)]
    return "; ".join([f"{persons[0]['background']} backdrop", *described])


def _listed(seen: Seen) -> str:
    words = []
    for name, value in seen.items():
        if name == "background":
            continue
        if value == "none":
            words.append(f"no {name}")
        elif name == "glasses" or value == name:
            words.append(value)
        else:
            words.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(words)


def joined(things: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(things[:-1]), things[-1]]))


def instruction(changed: str, before: str, after: str, place: str = "") -> str:
    """The change as a request; place: of the person, such as `on the left`."""
    if after == "none":
        request = f"take off the {before}" if changed == "glasses" else f"remove the {changed}"
    else:
        request = {
            "hat": f"give the person a {after} hat" if before == "none" else f"make the hat {after}",
            "glasses": f"give the person {after}",
            "beard": "give the person a beard",
            "freckles": "add freckles",
            "earrings": "add earrings",
            "hair_length": f"make the hair {after}",
            "hair_color": f"dye the hair {after}",
            "skin": f"make the skin {after}",
            "shirt": f"make the shirt {after}",
            "mouth": "make the person smile" if after == "smiling" else "make the person look sad",
            "background": f"make the background {after}",
        }[changed]
    return f"{place}, {request}" if place else request
