"""The page of editors: paired differences at the same setting, the front, the sheet."""

import re

import numpy as np
import pytest
import torch

from commands.report.edit_front import draw_front
from commands.report.edits import MOST_RUNS, differences, markdown, sheet
from fewstep.editors.edits import Edits


def run(editor, w, strength, kept, tau="0.8"):
    rows = {"test/clip_similarity": [strength, strength + 1], "test/psnr_background": [kept, kept + 2]}
    return {
        "checkpoint": f"{editor}, w {w}, tau {tau}",
        "data": {"path": "edits"},
        "metrics": {name: sum(values) / 2 for name, values in rows.items()},
        "intervals": dict(rows),
        "sampling": {"samples": 2, "nfe": 8.0},
        "settings": {"editor": editor, "w": w, "tau": tau},
        "rows": rows,
    }


RUNS = [run("a", "2", 20, 30), run("a", "4", 25, 26), run("b", "2", 21, 28.5), run("b", "8", 24, 20)]
LABELS = [each["checkpoint"] for each in RUNS]


def test_differences_are_from_the_first_editor_at_the_same_setting():
    (line,) = differences(RUNS, LABELS)  # of b at w 8 there is no a
    assert line[0] == "b, w 2, tau 0.8"
    assert [cell.split()[0] for cell in line[1:]] in (["+1.0", "−1.5"], ["−1.5", "+1.0"], ["+1.000", "−1.500"])
    text = markdown(RUNS, LABELS, "evaluate", True)
    assert text.count("| a, w") == 2
    assert text.count("| b, w 2, tau 0.8 |") == 2
    assert "front.svg" in text
    alone = markdown(RUNS[:2], LABELS[:2], "evaluate", False)
    assert "Difference" not in alone
    assert "front.svg" not in alone


def test_the_front_goes_through_what_no_other_setting_beats(monkeypatch):
    import matplotlib.axes

    lines, plot = {}, matplotlib.axes.Axes.plot

    def noted(axes, x, y, **options):
        lines[options.get("label")] = list(zip(x, y, strict=True))
        return plot(axes, x, y, **options)

    monkeypatch.setattr(matplotlib.axes.Axes, "plot", noted)
    svg = draw_front(RUNS)
    assert svg.startswith("<svg")
    assert lines["a"] == [(20.5, 31.0), (25.5, 27.0)]
    assert lines["front"] == [(25.5, 27.0), (21.5, 29.5), (20.5, 31.0)]
    assert re.search(r"PSNR of the background", svg)
    assert "structure" not in svg
    assert draw_front([each | {"metrics": {}} for each in RUNS]) is None


@pytest.mark.parametrize("num", [3, MOST_RUNS, 40])
def test_the_sheet_shows_runs_of_all_editors(num):
    edits = Edits(
        torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8), ["", ""], ["x", "y"], ["k", "l"], ["", ""], [None, None]
    )
    pictures = {"picture": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}
    pictures |= {f"run {number}": torch.full((2, 3, 8, 8), number, dtype=torch.uint8) for number in range(1, num + 1)}
    page = sheet(pictures, edits)
    values = {int(value) for value in np.unique(np.asarray(page)[..., 0]) if 0 < value < 41}
    assert len(values & set(range(1, num + 1))) == min(num, MOST_RUNS)
    assert num <= MOST_RUNS or (min(values) <= 3 and max(values) >= num - 2)
