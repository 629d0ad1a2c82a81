"""The texts of an edit, named in the dictionary or given."""

from collections.abc import Sequence
from typing import NamedTuple

from fewstep.fast_edit.dictionary import known_edit
from fewstep.fast_edit.direction.templates import Templates
from fewstep.fast_edit.direction.text_direction import text_pairs


class EditTexts(NamedTuple):
    """source, target: in pairs, see `text_direction`. templates: see `prompt_templates`.

    t0: of the dictionary, None where it does not say.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    templates: Templates
    t0: float | None = None


def edit_texts(
    edit: str,
    source: str | Sequence[str] | None = None,
    target: str | Sequence[str] | None = None,
    templates: str | None = None,
) -> EditTexts:
    """Those of the dictionary where none are given; else `edit` is but a name. ValueError in one line."""
    if (source is None) != (target is None):
        raise ValueError("give source and target texts, or neither for an edit of the dictionary")
    if source is None or target is None:
        known = known_edit(edit)
        return EditTexts(known.source, known.target, templates or known.templates, known.t0)
    old, new = zip(*text_pairs(source, target), strict=True)
    return EditTexts(old, new, templates or "imagenet")
