"""Sentences into which the texts of an edit are put: the direction between texts is a mean over them.

Radford et al. 2021, section 3.1.4 (prompt ensembling).
"""

from collections.abc import Sequence

from fewstep.choices import require_choice

OF_OPEN_CLIP = {"imagenet": "OPENAI_IMAGENET_TEMPLATES", "imagenet_small": "SIMPLE_IMAGENET_TEMPLATES"}
TEMPLATE_SETS = (*OF_OPEN_CLIP, "plain")
Templates = str | tuple[str, ...]  # the name of a set, or sentences of one's own


def check_templates(choice: Templates) -> None:
    """ValueError in one line for what `prompt_templates` does not take, without an import of open_clip."""
    if isinstance(choice, str):
        require_choice("templates", choice, TEMPLATE_SETS)
        return
    if not choice:
        raise ValueError('templates=[]: give at least one, "{}" for the text alone')
    for template in choice:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ValueError(f"template {template!r}: must contain one {{}}, where the text goes")


def prompt_templates(choice: str | Sequence[str] = "imagenet") -> list[str]:
    """Templates, each with one "{}" for the text.

    choice: "imagenet", the 80 of CLIP as open_clip has them (79 in DiffusionCLIP's code); "imagenet_small", the 7 of
    its short list; "plain", the text alone, for a CLIP of a closed vocabulary; or templates of one's own. ValueError in
    one line.
    """
    check_templates(choice if isinstance(choice, str) else tuple(choice))
    if not isinstance(choice, str):
        return list(choice)
    if choice == "plain":
        return ["{}"]
    import open_clip

    return [template("{}") for template in getattr(open_clip, OF_OPEN_CLIP[choice])]
