"""Edits of style: a drawing, and the drawing of the same concept in another style as its true edit."""

import random
from collections.abc import Sequence


def style_pairs(concepts: Sequence[str], styles: Sequence[str], seed: int = 0) -> list[tuple[int, int]]:
    """(row of the source, row of the target), a pair for each concept that has two styles, in an order by the seed.

    concepts, styles: of each row. All ordered pairs of styles come equally often, as far as the concepts have them.
    """
    place = {pair: row for row, pair in enumerate(zip(concepts, styles, strict=True))}
    known = sorted(set(styles))
    ways = [(source, target) for source in known for target in known if source != target]
    order = sorted(set(concepts))
    random.Random(seed).shuffle(order)
    pairs = []
    for number, concept in enumerate(order):
        for turn in range(len(ways)):  # the first way that this concept has
            source, target = ways[(number + turn) % len(ways)]
            if (concept, source) in place and (concept, target) in place:
                pairs.append((place[concept, source], place[concept, target]))
                break
    return pairs
