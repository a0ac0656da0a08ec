from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.reports.page import Column, Line, Parallel, Plot
from recipe_exp.reports.plots import even_ticks, log_ticks, plot_as_svg

SVG = "{http://www.w3.org/2000/svg}"


def elements(plot: Plot | Parallel, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(plot_as_svg(plot)).iter(f"{SVG}{tag}"))


def plot(*lines: Line, is_log: bool = False, labels: tuple[str, ...] = ()) -> Plot:
    return Plot("t", "n", "x", "y", lines, is_log, labels)


def test_equal_ratios_are_equal_distances_on_a_logarithmic_axis() -> None:
    line = Line("rate", ((1e-3, 1.0), (1e-2, 2.0), (1e-1, 3.0)), is_joined=False)
    across = [float(circle.attrib["cx"]) for circle in elements(plot(line, is_log=True), "circle")]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)
    upward = [float(circle.attrib["cy"]) for circle in elements(plot(line, is_log=True), "circle")]
    assert upward == sorted(upward, reverse=True)


def test_an_interval_reaches_from_its_low_to_its_high_end() -> None:
    line = Line("a", ((1.0, 2.0), (2.0, 4.0)), ((2.0, 4.0), (1.0, math.nan)), is_joined=False)
    uprights = [each for each in elements(plot(line), "line") if each.attrib["x1"] == each.attrib["x2"]]
    circles = elements(plot(line), "circle")
    (upright,) = uprights
    assert upright.attrib["y1"] == circles[0].attrib["cy"]
    assert upright.attrib["y2"] == circles[1].attrib["cy"]


def test_a_value_that_is_none_leaves_a_gap() -> None:
    (line,) = elements(plot(Line("a", ((1, 1.0), (2, math.nan), (3, 2.0)))), "polyline")
    assert len(line.attrib["points"].split()) == 2
    assert "no value" in plot_as_svg(plot(Line("a", ((1, math.inf),))))


def test_parallel_coordinates_have_a_line_for_each_run() -> None:
    columns = (Column("a", (0.0, 1.0), ((0.0, "low"), (1.0, "high"))), Column("<b>", (0.5, 0.5), ()))
    drawn = Parallel("t", "n", ("one", "two"), columns, (0.0, 1.0))
    lines = elements(drawn, "polyline")
    assert [line[0].text for line in lines] == ["one", "two"], "the best one is drawn over the others"
    assert {text.text for text in elements(drawn, "text")} == {"a", "<b>", "low", "high"}


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_few_and_inside(low: float, width: float) -> None:
    high = low + width
    if high > low:
        ticks = even_ticks(low, high)
        assert len(ticks) <= 7


@given(st.floats(1e-9, 1e6), st.floats(1.01, 1e6))
def test_logarithmic_ticks_are_inside(low: float, ratio: float) -> None:
    ticks = log_ticks(low, low * ratio)
    assert len(ticks) <= 9
    assert all(low <= tick <= low * ratio for tick in ticks)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=8), st.booleans())
def test_every_plot_is_well_formed(points: list[tuple[float, float]], is_joined: bool) -> None:
    assert elements(plot(Line("a & <b>", tuple(points), is_joined=is_joined)), "text")
