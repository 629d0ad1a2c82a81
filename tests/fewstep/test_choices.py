"""Bounds of options: inclusive or not, and nothing that is no number passes."""

import math

import pytest

from fewstep.choices import require_range
from fewstep.distillation.consistency import Weights
from fewstep.distillation.options import DistillationOptions
from fewstep.distillation.students import StudentOptions


@pytest.mark.parametrize(
    ("value", "bounds", "end"),
    [
        (-0.1, {}, "at least 0 and finite"),
        (0, {"above": True}, "above 0 and finite"),
        (math.nan, {}, "at least 0 and finite"),
        (math.nan, {"above": True}, "above 0 and finite"),
        (math.inf, {}, "at least 0 and finite"),
        (1.1, {"most": 1}, "at least 0 and at most 1"),
        (0, {"least": 1}, "at least 1 and finite"),
    ],
)
def test_what_is_outside_is_named(value, bounds, end):
    with pytest.raises(ValueError, match=f"^x={value}: must be {end}$"):
        require_range("x", value, **bounds)


@pytest.mark.parametrize(("value", "bounds"), [(0, {}), (1e-9, {"above": True}), (1, {"most": 1}), (1, {"least": 1})])
def test_ends_are_inside(value, bounds):
    require_range("x", value, **bounds)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (DistillationOptions, {"num_steps": 0}, "distillation.num_steps=0: must be at least 1"),
        (DistillationOptions, {"huber_c": 0.0}, "distillation.huber_c=0.0: must be above 0"),
        (
            DistillationOptions,
            {"boundaries": [0, 0.255, 1]},
            "boundary 0.255 is not on the grid of num_steps = 50; 0.26",
        ),
        (DistillationOptions, {"boundaries": [0, 0.5, 0.3, 1]}, r"boundaries=\[0, 0.5, 0.3, 1\]: must rise by more"),
        (Weights, {"forward_cd": math.nan}, "loss_weights.forward_cd=nan: must be at least 0"),
        (Weights, {"full_cycle": -1.0}, "loss_weights.full_cycle=-1.0: must be at least 0"),
        (Weights, dict.fromkeys(Weights.__dataclass_fields__, 0.0), "all are 0, which leaves nothing to train"),
        (StudentOptions, {"rank": 0}, "students.rank=0: must be at least 1"),
        (StudentOptions, {"rank": 10**21}, "students.rank=1000000000000000000000: must be at least 1 and at most"),
        (StudentOptions, {"alpha": math.inf}, "students.alpha=inf: must be above 0 and finite"),
    ],
)
def test_groups_of_distillation_refuse_what_cannot_train(kind, given, message):
    with pytest.raises(ValueError, match=f"^(loss_weights: )?{message}"):
        kind(**given)
