from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from recipe_exp.metrics import MetricResult
from recipe_exp.metrics.bootstrap import Interval
from recipe_exp.reports.evaluation import (
    EvaluationReport,
    evaluation_page,
    interval_text,
    render_evaluation,
    value_text,
)
from recipe_exp.reports.markdown import as_markdown
from recipe_exp.reports.page import MarkedTexts, Page, Ranges, Table

_VOID = {"meta", "br", "wbr", "img", "path", "line", "rect", "circle", "polyline"}


class Reader(HTMLParser):
    """Reads what a browser would, and remembers what is not closed, what is loaded and what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in _VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name.startswith("on") or (name in ("src", "href", "xlink:href") and value):
                self.faults.append(f"{tag} {name}={value}")

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def html(report: EvaluationReport) -> str:
    return render_evaluation(report)


@pytest.fixture(scope="module")
def page(report: EvaluationReport) -> Page:
    return evaluation_page(report)


def blocks(page: Page, kind: type) -> list[Any]:
    return [block for section in page.sections for block in section.blocks if isinstance(block, kind)]


def test_the_page_is_whole_loads_nothing_and_runs_nothing(html: str) -> None:
    reader = Reader()
    reader.feed(html)
    assert reader.faults == []
    assert reader.open == []
    assert reader.tags.isdisjoint({"script", "i", "x", "iframe", "img", "link"})
    assert "url(" not in html
    assert "@import" not in html
    assert len(html) < 2_000_000


def test_hostile_texts_are_shown_as_they_are(html: str) -> None:
    reader = Reader()
    reader.feed(html)
    for text in ("<script>alert(1)</script>", "<script>alert(2)</script>", "<script>alert(3)</script>", "<b>now</b>"):
        assert text in reader.text


def test_every_metric_stands_beside_the_anchors(report: EvaluationReport, page: Page) -> None:
    (table,) = (block for block in blocks(page, Table) if block.title == "Every number")
    assert [row[0] for row in table.rows] == list(report.result.scores)
    assert table.columns[2:] == tuple(report.anchors)
    (ranges,) = blocks(page, Ranges)
    for each in ranges.ranges:
        assert 0 <= each.low <= each.share <= each.high <= 1.0001
        assert len(each.marks) == 2
    bleu = next(each for each in ranges.ranges if each.label == "bleu")
    assert bleu.marks[0] == pytest.approx(1.0)
    assert bleu.share == pytest.approx(report.result["bleu"] / 100)


def test_the_lead_says_what_is_shown_to_be_better_and_what_is_not(page: Page) -> None:
    assert "better than the prompt copied." in page.lead
    assert "not shown to be better than the recipe of the nearest title." in page.lead


def test_real_differences_from_other_runs_are_marked(page: Page) -> None:
    (table,) = (block for block in blocks(page, Table) if block.columns[0] == "metric" and not block.title)
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.columns == ("metric", "itself <x>", "copied")
    assert rows["bleu"][0] == "+0.000 (+0.000 to +0.000)"
    assert rows["bleu"][1].startswith("● +")


def test_the_best_the_median_and_the_worst_are_shown_once(report: EvaluationReport, page: Page) -> None:
    groups = blocks(page, MarkedTexts)
    assert [group.title for group in groups] == ["The best", "Around the median", "The worst"]
    shown = [text.reference for group in groups for text in group.texts]
    assert len(shown) == len(set(shown)) == len(report.predictions)
    scores = [[float(re.findall(r"chrf ([\d.]+)", text.note)[0]) for text in group.texts] for group in groups]
    assert min(scores[0]) >= max(scores[2])
    assert scores[0] == sorted(scores[0], reverse=True)
    assert scores[2] == sorted(scores[2])


def test_slices_hold_all_examples_and_are_named(page: Page) -> None:
    tables = {block.title: block for block in blocks(page, Table) if block.title.startswith("By ")}
    assert set(tables) == {"By length of the reference", "By source", "By prompt"}
    assert {row[0]: row[1] for row in tables["By source"].rows} == {"grandma": "12", "<i>web</i>": "12"}
    for table in tables.values():
        assert sum(int(row[1]) for row in table.rows) == 24


def test_a_slice_of_a_few_is_left_out(report: EvaluationReport) -> None:
    predictions = [
        replace(each, source="few" if index < 3 else "many") for index, each in enumerate(report.predictions)
    ]
    page = evaluation_page(replace(report, predictions=predictions))
    assert "By source" not in {block.title for block in blocks(page, Table)}


def test_a_single_recipe_outside_of_a_run_has_a_report(report: EvaluationReport) -> None:
    single = MetricResult(report.result.scores, report.result.examples[:1])
    alone = EvaluationReport("m", {}, report.predictions[:1], single)
    reader = Reader()
    reader.feed(render_evaluation(alone))
    assert reader.faults == []
    assert "Over the run" not in reader.text


def test_the_page_can_be_read_as_markdown(report: EvaluationReport, page: Page) -> None:
    text = as_markdown(page)
    assert "| bleu |" in text
    assert "<script>" not in text


@pytest.mark.parametrize(
    ("value", "shown"), [(0.12345, "0.123"), (12.345, "12.3"), (1234567.0, "1.23e+06"), (float("nan"), "none")]
)
def test_values_are_short(value: float, shown: str) -> None:
    assert value_text(value) == shown


def test_an_interval_that_is_not_defined_is_left_out() -> None:
    assert interval_text(Interval(0.5, float("nan"), float("nan"))) == "0.500"
    assert interval_text(Interval(0.5, 0.4, 0.6)) == "0.500 (0.400 to 0.600)"
