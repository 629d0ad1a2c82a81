"""The edits of the comparison: what pictures each is learnt from, looked at and judged by, and what they shall show."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from benchmarks.avatars.evaluation_set import Avatars, read_avatars
from benchmarks.fast_edit.audit import HIDES, rows_of
from datamodules.prepare.avatar_captions import Seen, captions, scoring_caption
from fewstep.fast_edit.dictionary import known_edit
from fewstep.rng import mix_seed

EDITS = {
    "avatar_glasses": ("glasses", "glasses"),
    "avatar_red_hat": ("hat", "red"),
    "avatar_blond_hair": ("hair_color", "blond"),
    "avatar_dark_skin": ("skin", "dark"),
    "avatar_red_shirt": ("shirt", "red"),
    "avatar_pink_background": ("background", "pink"),
    "avatar_long_hair": ("hair_length", "long"),
    "avatar_sunglasses": ("glasses", "sunglasses"),
    "avatar_no_glasses": ("glasses", "none"),
}
FIRST = tuple(EDITS)[:6]
STYLE = "pixel-art"
WORDINGS = 16  # pairs of captions over which the held-out direction is a mean


@dataclass(frozen=True)
class Task:
    """One edit and its pictures, [N, 3, H, W] in [-1, 1] each, none of them in two of these.

    sources, having: of the base's own training data, without and with what is asked. looked_at: likewise without, for
    the looks of learning. shown: from val and test, without, for judgement; the first of them have a true edit, `true`.
    captions: of `shown` as they shall be, captions_before: as they are; complete. wordings: (before, after), in pairs,
    in a scorer's grammar.
    """

    name: str
    attribute: str
    value: str
    t0: float
    sources: Tensor
    having: Tensor
    looked_at: Tensor
    shown: Tensor
    true: Tensor
    captions: list[str]
    wordings: tuple[list[str], list[str]]
    captions_before: list[str] = field(default_factory=list)


def read_pictures(path: str) -> tuple[Avatars, Avatars]:
    """(those to learn from, those to judge by); reading takes a while."""
    held_out = [read_avatars(path, split) for split in ("val", "test")]
    return read_avatars(path, "train"), _joined(*held_out)


def task_of(
    name: str, learn_from: Avatars, held_out: Avatars, seed: int, num: int = 50, looked_at: int = 32, shown: int = 128
) -> Task:
    """seed: draws those that are learnt from and looked at; those of judgement are the same for all seeds."""
    attribute, value = EDITS[name]
    lacking = _drawn(_rows(learn_from, attribute, value, has=False), num + looked_at, name, seed)
    having = _drawn(_rows(learn_from, attribute, value, has=True), num, name, seed)
    pairs = rows_of(held_out, attribute, value)[:shown]
    others = [row for row in _rows(held_out, attribute, value, has=False) if row not in set(pairs)]
    rows = pairs + others[: shown - len(pairs)]
    if min(len(lacking) - num - looked_at, len(having) - num, len(rows) - shown, len(pairs) - 2) < 0:
        told = f"{len(lacking)} without and {len(having)} with {value} to learn from, {len(rows)} to judge by"
        raise ValueError(
            f"{name}: {told}, {len(pairs)} of them with a true edit; prepare more avatars, or ask for less"
        )
    judged, drawn = held_out[pairs], held_out[rows]
    wordings = [[scoring_caption([seen]) for seen in side] for side in (judged.attributes, judged.edited_attributes)]
    told = [captions(STYLE, [asked_of(seen, attribute, value)])[0].text for seen in drawn.attributes]
    before = [captions(STYLE, [seen])[0].text for seen in drawn.attributes]
    images = learn_from.image
    return Task(
        name, attribute, value, known_edit(name).t0, images[lacking[:num]], images[having], images[lacking[num:]],
        drawn.image, judged.edited, told, (wordings[0][:WORDINGS], wordings[1][:WORDINGS]), before,
    )  # fmt: skip


def asked_of(seen: Seen, attribute: str, value: str) -> dict[str, str]:
    """What can be seen after the edit: a hat hides hair."""
    after = {**seen, attribute: value}
    hidden = HIDES.get(attribute, []) if value != "none" else []
    return {name: word for name, word in after.items() if name not in hidden}


def _rows(avatars: Avatars, attribute: str, value: str, has: bool) -> list[int]:
    """Those where the attribute can be seen and has the value, or has not."""
    seen = enumerate(avatars.attributes)
    return [row for row, shown in seen if attribute in shown and (shown[attribute] == value) is has]


def _drawn(rows: list[int], num: int, name: str, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(mix_seed(seed, f"pictures of {name}"))
    return [rows[place] for place in torch.randperm(len(rows), generator=generator).tolist()[:num]]


def _joined(one: Avatars, other: Avatars) -> Avatars:
    columns = {}
    for name, mine in vars(one).items():
        theirs = getattr(other, name)
        columns[name] = torch.cat([mine, theirs]) if isinstance(mine, Tensor) else [*mine, *theirs]
    return Avatars(**columns)
