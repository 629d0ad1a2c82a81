"""The editors by name, as command lines have them: NAME, or NAME=SOURCE with a pipeline or an export of its own."""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from fewstep.diffusion.solvers import fixed_point
from fewstep.editors.attention_sharing import AttentionSharing
from fewstep.editors.ddim_inversion import DDIMInversion
from fewstep.editors.edits import Editor
from fewstep.editors.few_step_pair import FewStepPair
from fewstep.editors.flow_edit import FlowEdit
from fewstep.editors.null_prompt import NullPrompt
from fewstep.editors.sdedit import SDEdit

OF_PIPELINES: Mapping[str, Callable[..., Editor]] = {  # (model, num_steps)
    "ddim": DDIMInversion,
    "prompt_switch": partial(DDIMInversion, late=True),
    "fixed_point": partial(DDIMInversion, solver=fixed_point),
    "p2p": AttentionSharing,
    "null_prompt": NullPrompt,
    "sdedit": SDEdit,
    "flowedit": FlowEdit,
}
OF_PAIRS: Mapping[str, Callable[..., Editor]] = {  # (pair)
    "icd": FewStepPair,
    "icd_switch": partial(FewStepPair, late=True),
    "icd_replay": partial(FewStepPair, replay=True),
    "icd_p2p": partial(FewStepPair, backend="prompt_to_prompt"),
}
NAMES = (*OF_PIPELINES, *OF_PAIRS)


class Wanted(NamedTuple):
    name: str
    source: str | None


def wanted(text: str) -> Wanted:
    """Of NAME or NAME=SOURCE; ValueError in one line for a name that does not exist and a pair without its export."""
    name, equals, source = text.partition("=")
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1, 0.4)
        hint = f"the nearest is {near[0]!r}" if near else "there are"
        raise ValueError(f"unknown editor {name!r}; {hint} ({', '.join(NAMES)})")
    if equals and not source:
        raise ValueError(f"{text!r} names no folder behind the equals sign")
    if name in OF_PAIRS and not source:
        raise ValueError(f"the editor {name} is a pair of students: give {name}=EXPORT, what an iCD run has exported")
    return Wanted(name, source or None)


def make_editor(name: str, source: Any, num_steps: int) -> Editor:
    """source: a LatentDiffusion, or the InvertibleConsistency of OF_PAIRS; num_steps: of OF_PIPELINES."""
    return OF_PAIRS[name](source) if name in OF_PAIRS else OF_PIPELINES[name](source, num_steps)
