"""Which emoji exist in which style, which concept each belongs to, and the two splits."""

import json
import re
from typing import NamedTuple

from datamodules.prepare.emoji_captions import TONES, captions, scoring_captions
from datamodules.prepare.hashed_share import share

STYLES = ("noto", "twemoji", "fluent", "openmoji")  # their order decides what edit_split holds out: append only
GENDERED = {  # older code points for a man or woman, and the neutral one
    "1F468": "1F9D1", "1F469": "1F9D1", "1F466": "1F9D2", "1F467": "1F9D2", "1F474": "1F9D3", "1F475": "1F9D3",
    "1F934": "1FAC5", "1F478": "1FAC5", "1F385": "1F9D1-1F384", "1F936": "1F9D1-1F384", "1F57A": "1F483",
    "1F930": "1FAC4", "1FAC3": "1FAC4", "1F46B": "1F9D1-1F91D-1F9D1", "1F46C": "1F9D1-1F91D-1F9D1",
    "1F46D": "1F9D1-1F91D-1F9D1",
}  # fmt: skip
TONE_CODES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")
TEXT_SUBGROUPS = ("keycap", "alphanum")
TONED_SUBGROUPS = (
    "hand-fingers-open", "hand-fingers-partial", "hand-single-finger", "hand-fingers-closed", "hands", "hand-prop",
    "body-parts",
)  # fmt: skip


class Emoji(NamedTuple):
    """One thing to draw; its drawings in all styles show the same."""

    concept: str  # code points without the invisible FE0F, such as "1F44B" or "1F44B-1F3FB"
    label: str  # without skin tone
    tags: list[str]  # the commonest first
    group: str
    subgroup: str
    tone: str  # one of TONES


def plain_code(code: str) -> str:
    """A code in upper case and without FE0F, which vendors write or leave out as they like."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def base_concept(concept: str) -> str:
    """What all skin tones and all gender variants of one emoji share; the splits never part these."""
    parts = [part for part in concept.split("-") if part not in (*TONE_CODES, "200D", "2640", "2642", "FE0F", "27A1")]
    base = "-".join(GENDERED.get(part, part) for part in parts)
    people = set(base.split("-"))
    if people <= {"1F9D1", "1F9D2", "1F46A"} and (len(parts) > 1 or "1F46A" in people):
        return "1F46A"  # families
    if "1F48B" in people and len(parts) > 1:
        return "1F48F"  # kisses
    if people == {"1F9D1", "2764"}:
        return "1F491"  # couples with heart
    return base


def emoji_table(data: bytes, groups: bytes) -> list[Emoji]:
    """Every emoji of emojibase's data.json, each with its five one-tone variants where it has them."""
    entries = json.loads(data)
    names = json.loads(groups)
    counts: dict[str, int] = {}
    for entry in entries:
        for tag in entry.get("tags", []):
            counts[tag] = counts.get(tag, 0) + 1
    table = []
    for entry in entries:
        if "group" not in entry or names["groups"][str(entry["group"])] == "component":
            continue  # lone regional letters, hair and skin swatches
        tags = sorted(entry.get("tags", []), key=lambda tag: (-counts[tag], tag))
        about = (tags, names["groups"][str(entry["group"])], names["subgroups"][str(entry["subgroup"])])
        table.append(Emoji(plain_code(entry["hexcode"]), entry["label"], *about, TONES[0]))
        for skin in entry.get("skins", []):
            if isinstance(skin["tone"], int):  # a list: two people of two tones
                table.append(Emoji(plain_code(skin["hexcode"]), entry["label"], *about, TONES[skin["tone"]]))
    return table


def embedded(emoji: Emoji) -> bool:
    """Whether it belongs to the subset that ships with the project; README.md there says the rule in words."""
    if emoji.tone != "none":
        return emoji.subgroup in TONED_SUBGROUPS
    gendered = emoji.concept.startswith(("1F468", "1F469")) and emoji.subgroup not in ("person", "family")
    gender_variant = gendered or re.search("200D-264[02]", emoji.concept)
    return (
        emoji.group != "flags"
        and emoji.subgroup not in TEXT_SUBGROUPS
        and not emoji.label.startswith(("family: ", "kiss: ", "couple with heart: "))
        and not (gender_variant and emoji.subgroup != "person")
    )


def split_of(concept: str) -> str:
    """train (80 %), val (8 %) or test (12 %) by the base concept."""
    where = share("split", base_concept(concept))
    return "train" if where < 0.80 else "val" if where < 0.88 else "test"


def edit_split_of(emoji: Emoji, style: str) -> tuple[str, str | None]:
    """(edit_split, held_out): the second split, for editing and translation.

    Among train concepts some lose one style (8 % to val, 16 % to test) and some of those with skin tones lose one tone
    (15 % to val, 50 % to test); everything else is "train". In val and test every drawing has edit_split = its split,
    held_out "concept". So whoever trains on edit_split "train" has met no other drawing.
    """
    base = base_concept(emoji.concept)
    if (split := split_of(emoji.concept)) != "train":
        return split, "concept"
    found = {}
    axes = [("style", style, STYLES, 0.08, 0.24)]
    if emoji.tone != "none":
        axes.append(("skin_tone", emoji.tone, TONES[1:], 0.15, 0.65))
    for axis, value, values, val, test in axes:
        role = share("role", axis, base)
        if value == values[int(share("held out", axis, base) * len(values))] and role < test:
            found.setdefault("val" if role < val else "test", axis)
    for role in ("test", "val"):
        if role in found:
            return role, found[role]
    return "train", None


def metadata(emoji: Emoji, style: str, most_bytes: int = 512) -> bytes:
    """The json of one drawing.

    While it exceeds `most_bytes` (a tar block), tags go from the rarest on, and one scoring caption; three stay.
    """
    edit_split, held_out = edit_split_of(emoji, style)
    subject = emoji.subgroup.replace("-", " ")
    record = {
        "captions": captions(emoji.label, emoji.tags, style, emoji.tone),
        "scoring_captions": scoring_captions(emoji.label, emoji.tags, style, emoji.tone, subject),
        "concept": emoji.concept,
        "style": style,
        "group": emoji.group,
        "subgroup": emoji.subgroup,
        "skin_tone": emoji.tone,
        "tags": list(emoji.tags),
        "edit_split": edit_split,
        **({"held_out": held_out} if held_out else {}),
    }
    while len(content := compact_json(record)) > most_bytes:
        if len(record["tags"]) > 3 or (len(record["tags"]) > 1 and len(record["scoring_captions"]) == 3):
            record["tags"].pop()
        elif len(record["scoring_captions"]) > 3:
            record["scoring_captions"].pop()
        else:
            break
    return content


def compact_json(record: dict) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
