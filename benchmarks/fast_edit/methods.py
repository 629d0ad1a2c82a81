"""Every way of editing that is compared, by the name that tables have."""

from dataclasses import replace

from benchmarks.fast_edit.asyrp_learning import Asyrp
from benchmarks.fast_edit.boundary import BoundaryDiffusion
from benchmarks.fast_edit.pixels import Pixels
from benchmarks.fast_edit.rivals import Rival
from benchmarks.fast_edit.tuned_rivals import DDIM, PLAIN, Tuning
from fewstep.fast_edit.application import Application
from fewstep.fast_edit.encoding import Encoding
from fewstep.fast_edit.estimates import GradientMode
from fewstep.fast_edit.learn import LoopOptions

OURS, FULL = "fast edit", "DiffusionCLIP full"
EFFICIENT = "DiffusionCLIP efficient"
BY_DDIM = replace(PLAIN, encoding=DDIM)  # 39 passes up, 6 down
FEW = LoopOptions(passes=2, look_every=1)  # that cost more
METHODS: dict[str, Rival] = {
    OURS: Tuning(reference="frozen_estimate", application=Application()),
    "fast edit as published": Tuning(),
    FULL: Tuning(GradientMode("full"), DDIM, application=BY_DDIM, loop=FEW),
    EFFICIENT: Tuning(GradientMode("eff"), DDIM, application=BY_DDIM, loop=replace(FEW, passes=1)),
    "text slider": Tuning(GradientMode("random_t"), reference="frozen_estimate", application=Application()),
    "Asyrp": Asyrp(),
    "BoundaryDiffusion": BoundaryDiffusion(),
    "pixels": Pixels(),
}
SDEDIT, FLOW_EDIT, ICD_EDIT = "SDEdit", "FlowEdit", "iCD"
CAPTIONED = {SDEDIT: "--text-base", FLOW_EDIT: "--text-base", ICD_EDIT: "--icd"}  # only where there is such a base
ENDS = ("no edit", "true edit")  # that bound what can be reached
OWN = "own"  # the way in which a method itself applies an edit


def applications() -> dict[str, Application]:
    """Of a tuned edit, for the cross table; t0 is the edit's."""
    found = {f"stochastic {steps}": replace(PLAIN, num_steps=steps) for steps in (1, 2, 3, 4, 6)}
    found["stochastic 6, residual and projection"] = Application()
    for steps in (6, 40):
        found[f"DDIM 39+{steps}"] = Application(Encoding(kind="ddim"), steps, residual=False, projection=0)
    return found
