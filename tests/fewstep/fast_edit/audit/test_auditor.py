"""The audit on pictures whose every signal is known: judges that read three stripes, and a CLIP that stipple fools."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fewstep.fast_edit.audit.auditor import LEAST_REFERENCES, Audit, Auditor, Direction
from fewstep.fast_edit.audit.judge import Judge
from fewstep.fast_edit.audit.realism import high_frequency_ratio, high_pass_energy
from fewstep.fast_edit.audit.report import Signal
from fewstep.fast_edit.audit.sheet import audit_sheet
from fewstep.metrics.intervals import bootstrap_mean
from tests.tiny_edit_base import posterior_base

STRIPES = {"hat": slice(0, 8), "hair": slice(8, 16), "shirt": slice(16, 24)}  # rows of pictures of 24 px
CHECKER = (-1.0) ** (torch.arange(24)[:, None] + torch.arange(24))


class Stripes(nn.Module):
    """Reads each stripe: light if its mean is above 0."""

    def __init__(self):
        super().__init__()
        self.values = {"hat": ["none", "red"], "hair": ["dark", "light"], "shirt": ["dark", "light"]}

    def forward(self, images):
        means = {name: images[:, :, rows].mean((1, 2, 3)) for name, rows in STRIPES.items()}
        return {name: torch.stack([-mean, mean], 1).log_softmax(1) for name, mean in means.items()}


class Eye(nn.Module):
    """A CLIP that sees the stripes and, if it is `fooled`, takes stipple for a hat."""

    def __init__(self, fooled=False):
        super().__init__()
        self.fooled = fooled
        self.register_buffer("kind", torch.tensor(float(fooled)))  # weights, by which networks are told apart

    def embed_images(self, images):
        seen = torch.stack([images[:, :, rows].mean((1, 2, 3)) for rows in STRIPES.values()], 1)
        if self.fooled:
            seen[:, 0] += 5 * (images * CHECKER).mean((1, 2, 3))
        return F.normalize(F.pad(seen, (0, 1), value=3.0), dim=1)


HAT = torch.tensor([1.0, 0, 0, 0])
TRAINED, HELD_OUT = Direction(Eye(fooled=True), HAT), Direction(Eye(), HAT)


def judge(**asked):
    return Judge(Stripes(), asked or {"hat": "red"}, {"hat": ["hair"]})


def persons(count=12, seed=0):
    """Without a hat; hair and shirts of either kind, some texture."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 24, 24, generator=generator) * 0.1
    images[:, :, STRIPES["hat"]] -= 0.4
    for name in ("hair", "shirt"):
        sign = torch.randint(2, (count, 1, 1, 1), generator=generator) * 2.0 - 1
        images[:, :, STRIPES[name]] += 0.4 * sign
    return images.clamp(-1, 1)


def with_hats(images, pattern=0.0):
    """pattern: contrast of stripes that such hats have by nature."""
    images = images.clone()
    images[:, :, STRIPES["hat"]] = 0.4 + pattern * CHECKER[STRIPES["hat"]]
    return images


def stippled(images, amplitude=0.3):
    return (images + amplitude * CHECKER).clamp(-1, 1)


def values(report):
    return {signal.name: signal.value for signal in report.signals}


def test_a_true_edit_passes_and_stipple_that_fools_the_training_fails_by_all_others():
    auditor, sources = Auditor(TRAINED, HELD_OUT, judge=judge()), persons()
    true, false = auditor(sources, with_hats(sources)), auditor(sources, stippled(sources))
    assert true.passed
    assert true.verdict.startswith("audit passed on 12 pictures: high frequency ")
    assert not any(true.marks)
    assert values(true)["asked"] == values(true)["kept"] == 1
    assert values(false)["trained_direction"] > 0.9
    assert abs(values(false)["held_out_direction"]) < 0.1
    failed = ["high_frequency", "direction_gap", "asked"]
    assert [signal.name for signal in false.signals if not signal.passed] == failed
    ratio = high_frequency_ratio(stippled(sources), sources).log().mean().exp().item()
    assert values(false)["high_frequency"] == pytest.approx(ratio)
    trained, held_out = (f"{values(false)[name]:.2f}" for name in ("trained_direction", "held_out_direction"))
    gap = f"held-out direction {held_out} where the trained one has {trained}"
    assert false.verdict == f"audit failed: high frequency {ratio:.2f} above 1.3; {gap}; asked 0.00 below 0.8"
    assert all(marks == failed for marks in false.marks)


def test_without_a_held_out_judge_nothing_passes_and_it_says_so():
    sources = persons()
    report = Auditor(TRAINED)(sources, with_hats(sources))
    assert all(signal.passed for signal in report.signals)
    assert not report.passed
    assert report.verdict.startswith("not audited: no held-out judge")
    failed = Auditor(TRAINED)(sources, stippled(sources)).verdict
    assert failed.startswith("audit failed: high frequency")
    assert "is not audited" in failed
    for given in ({"held_out": HELD_OUT}, {"judge": judge()}):
        assert Auditor(TRAINED, **given)(sources, with_hats(sources)).passed


def test_realism_is_asked_of_the_base():
    # Its data is N(0.2, 0.5^2): what is nearer to the mean than the source is easier, and what is further is harder.
    sources = torch.full((4, 3, 24, 24), 0.2)
    sources[:, :, ::2] = -0.8
    auditor = Auditor(TRAINED, HELD_OUT, posterior_base())
    better, worse = (auditor(sources, edits) for edits in (sources / 2, sources.sign()))
    assert values(better)["realism"] < 0.9
    assert values(worse)["realism"] > 1.15
    assert "realism" in worse.verdict
    assert values(auditor(sources, sources))["realism"] == 1


def test_what_is_natural_for_the_attribute_is_no_fault():
    sources, patterned = persons(), with_hats(persons(), pattern=0.3)
    assert "high_frequency" in {s.name for s in Auditor(TRAINED, HELD_OUT)(sources, patterned).signals if not s.passed}
    lacking, having = persons(40, seed=1), with_hats(persons(40, seed=2), pattern=0.3)
    informed = Auditor(TRAINED, HELD_OUT, judge=judge(), references=torch.cat([lacking, having]))
    report = informed(sources, patterned)
    logs = [high_pass_energy(images).log().mean() for images in (patterned, sources, having, lacking)]
    assert values(report)["high_frequency"] == pytest.approx((logs[0] - logs[1] - logs[2] + logs[3]).exp().item())
    assert values(report)["high_frequency"] == pytest.approx(1, abs=0.2)
    assert informed(sources, stippled(patterned)).signals[0].value > 1.3


def test_references_where_the_asked_attribute_is_hidden_do_not_count():
    shown = torch.cat([persons(60, seed=1), with_hats(persons(60, seed=2), pattern=0.9)])
    dyed = judge(hair="light")
    plain = Auditor(TRAINED, judge=dyed, references=shown[:60])
    mixed = Auditor(TRAINED, judge=dyed, references=shown)
    sources = persons()
    assert values(plain(sources, sources)) == values(mixed(sources, sources))


def test_what_is_hidden_before_or_after_is_neither_kept_nor_lost():
    sources = persons()
    edits = with_hats(sources)
    edits[:, :, STRIPES["hair"]] *= -1
    assert values(Auditor(TRAINED, judge=judge())(sources, edits))["kept"] == 1
    edits[:8, :, STRIPES["shirt"]] *= -1
    report = Auditor(TRAINED, judge=judge())(sources, edits)
    assert values(report)["kept"] == pytest.approx(1 / 3)
    assert [marks == ["kept"] for marks in report.marks] == [True] * 8 + [False] * 4
    assert "kept 0.33 below 0.9" in report.verdict


def test_an_edit_may_pass_with_a_marked_picture():
    sources = persons()
    edits = with_hats(sources)
    edits[5] = sources[5]
    report = Auditor(TRAINED, HELD_OUT, judge=judge())(sources, edits)
    assert report.passed
    assert [row for row, marks in enumerate(report.marks) if marks] == [5]
    assert report.marks[5] == ["trained_direction", "asked"]


def test_a_mean_that_is_beyond_by_chance_is_no_failure():
    values = torch.tensor([1.5, 0.9, 1.4, 1.0])
    nothing = torch.zeros(4, dtype=torch.bool)
    few, many = Signal("realism", values, nothing, 1.15), Signal("realism", values.repeat(40), nothing.repeat(40), 1.15)
    assert few.value == many.value == pytest.approx(1.2)
    assert few.interval[0] < 1.15 < many.interval[0]
    assert (few.passed, many.passed) == (True, False)
    assert (str(few), str(many)) == ("realism 1.20", "realism 1.20 above 1.15")
    assert not Signal("realism", values[:1], nothing[:1], 1.15).passed  # of one picture nothing else is known
    assert not Signal("realism", values, nothing, 1.15, by_mean=True).passed


def test_what_an_edit_claims_is_bounded_by_the_mean():
    """8 of 12 pictures have an interval that reaches 0.8, and are not 0.8."""
    sources = persons()
    edits = torch.cat([with_hats(sources[:8]), sources[8:]])
    report = Auditor(TRAINED, HELD_OUT, judge=judge())(sources, edits)
    assert [signal.name for signal in report.signals if not signal.passed] == ["asked"]
    assert report.signals[-2].interval[1] >= 0.8
    assert report.verdict == "audit failed: asked 0.67 below 0.8"


def test_intervals_are_bootstraps_and_the_file_gets_plain_values():
    sources = persons()
    report = Auditor(TRAINED, HELD_OUT, judge=judge(), distance=lambda a, b: (a - b).abs().mean((1, 2, 3)))(
        sources, with_hats(sources)
    )
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (told["passed"], told["num"], told["held_out"], told["verdict"]) == (True, 12, True, report.verdict)
    ratios = high_frequency_ratio(with_hats(sources), sources).double()
    assert told["signals"]["high_frequency"]["interval"] == pytest.approx(np.exp(bootstrap_mean(ratios.log())))
    assert told["signals"]["direction_gap"]["bound"] == 0.3
    assert told["signals"]["kept"]["bound_is"] == "least"
    distance = told["signals"]["distance"]
    assert (distance["bound"], distance["passed"]) == (None, True)
    assert distance["value"] == pytest.approx((with_hats(sources) - sources).abs().mean().item())
    alone = Auditor(TRAINED, HELD_OUT)(sources[:1], with_hats(sources[:1]))
    assert alone.passed
    assert alone.to_dict()["signals"]["direction_gap"]["interval"] is None


@pytest.mark.parametrize("judged", [False, True])
def test_an_edit_that_does_nothing_is_caught(judged):
    sources = persons()
    report = Auditor(TRAINED, HELD_OUT, posterior_base() if judged else None, judge() if judged else None)
    assert "trained direction 0.00 below 0.2" in report(sources, sources).verdict
    assert not report(sources, sources).passed


def test_a_bound_on_the_distance_is_one_more_signal():
    sources = persons()
    auditor = Auditor(TRAINED, HELD_OUT, distance=lambda a, b: (a - b).abs().mean((1, 2, 3)), audit=Audit(distance=0.1))
    assert "distance 0.27 above 0.1" in auditor(sources, with_hats(sources)).verdict


def test_the_sheet_shows_every_picture():
    sources = persons(11)
    report = Auditor(TRAINED, judge=judge())(sources, with_hats(sources))
    page = np.asarray(audit_sheet(report, sources, with_hats(sources), columns=4))
    hats = (page == np.uint8(round(1.4 * 127.5))).all(-1)  # grey of a hat, 0.4
    assert hats[:, :].sum() >= 11 * 8 * 24 * 5**2  # enlarged to 112 px or more


def test_what_cannot_be_meant_is_one_line():
    sources = persons()
    with pytest.raises(ValueError, match="the held-out CLIP is the one of the training"):
        Auditor(TRAINED, Direction(Eye(fooled=True), HAT))  # loaded anew
    with pytest.raises(ValueError, match="references without a judge"):
        Auditor(TRAINED, references=sources)
    with pytest.raises(ValueError, match=rf"0 references show .*, 12 do not: at least {LEAST_REFERENCES} of each"):
        Auditor(TRAINED, judge=judge(), references=sources)
    with pytest.raises(ValueError, match=r"sources \[12, 3, 24, 24\] and edits \[11, 3, 24, 24\]"):
        Auditor(TRAINED)(sources, sources[1:])
    with pytest.raises(ValueError, match=r"edits leave \[-1, 1\]"):
        Auditor(TRAINED)(sources, sources * torch.nan)
    with pytest.raises(ValueError, match="asked nothing"):
        Judge(Stripes(), {})
    with pytest.raises(ValueError, match="known values are none, red"):
        judge(hat="blue")
    with pytest.raises(ValueError, match="hides names 'coat'"):
        Judge(Stripes(), {"hat": "red"}, {"hat": ["coat"]})
    with pytest.raises(ValueError, match=r"hides\.hair: it is never 'none'"):
        Judge(Stripes(), {"hat": "red"}, {"hair": ["hat"]})
    with pytest.raises(ValueError, match=r"audit.asked=2: must be at least 0 and at most 1"):
        Audit(asked=2)
    with pytest.raises(ValueError, match=r"audit.realism=0: must be above 0"):
        Audit(realism=0)
