"""Read from the SVG itself: where a dot lies, what a line passes through, what text says."""

import re
from xml.etree import ElementTree

import pytest

from commands.report.drawing import COLOURS, draw, whiskers
from commands.report.plots import Plot, Point

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return ["".join(each.itertext()).strip() for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def dots(svg, colour):
    """(x, y) of the markers of this colour, in the order they were drawn."""
    found = (each for each in ElementTree.fromstring(svg).iter(f"{SVG}use") if colour.lower() in each.get("style", ""))
    return [(float(each.get("x")), float(each.get("y"))) for each in found]


def row(*cells, floor=None):
    names = ("value", "low", "high")
    return {"cells": [dict(zip(names, cell, strict=True)) for cell in cells], "floor": floor}


def test_whiskers_keep_order_and_proportion():
    svg = whiskers(row((1.0, 0.9, 1.1), (2.0, 1.7, 2.3), (1.5, None, None)), ["a", "b", "c"], [0, 1, 2])
    (a,), (b,), (c,) = (dots(svg, COLOURS[i]) for i in range(3))
    assert c[0] == pytest.approx((a[0] + b[0]) / 2, abs=0.1)  # 1.5 lies half way
    assert a[1] < b[1] < c[1]
    assert {"a", "b", "c"} <= set(texts(svg))


def test_a_metric_without_spread_and_a_missing_value_can_be_drawn():
    svg = whiskers(row((0.0, 0.0, 0.0), (None, None, None), floor=0.0), ["a", "b"], [0, 7])
    assert len(dots(svg, COLOURS[0])) == 1
    assert dots(svg, COLOURS[1]) == []


def test_a_run_has_its_colour_in_every_plot():
    assert len(dots(whiskers(row((1.0, 0.9, 1.1)), ["a"], [8]), COLOURS[2])) == 1
    assert len(dots(draw(Plot("t", "x", [Point(1, 1.0, run=2), Point(2, 2.0, run=3)])), COLOURS[2])) == 1


def test_steps_of_many_sizes_are_logarithmic():
    points = [Point(100 * 10**i, 1.0 / (i + 1)) for i in range(3)]
    svg = draw(Plot("t", "training step", points, lines=[points]))
    first, second, third = (x for x, _ in dots(svg, COLOURS[0]))
    assert second - first == pytest.approx(third - second, abs=0.1)
    assert {"training step (logarithmic)", "100", "1000", "1e+04"} <= set(texts(svg))
    near = draw(Plot("t", "inference steps", [Point(x, 1.0) for x in (1, 2, 4)]))
    one, two, four = (x for x, _ in dots(near, COLOURS[0]))
    assert four - two == pytest.approx(2 * (two - one), abs=0.1)
    assert "inference steps" in texts(near)


def test_labels_say_whose_dots_these_are_and_stay_text():
    points = [Point(1, 3.0, 2.5, 3.5, label="<script>$a$</script>"), Point(4, 1.0, 0.9, 1.1, 1, "b")]
    svg = draw(Plot("t", "x", points, front=points))
    assert {"<script>$a$</script>", "b"} <= set(texts(svg))
    assert "<script" not in svg


def test_equal_plots_are_equal_bytes_that_refer_to_nothing_outside():
    plot = Plot("t", "x", [Point(1, 3.0), Point(4, 1.0)])
    assert draw(plot) == draw(plot)
    assert draw(plot).startswith("<svg")
    outside = re.findall(r"""(?:href|src|url)\s*[=(]\s*["']?([^#"'\s)][^"'\s)]*)""", draw(plot))
    assert outside == []
