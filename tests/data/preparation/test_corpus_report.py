from __future__ import annotations

from typing import Any

import msgspec
import pytest

from recipe_exp.data.preparation.corpus_report import ClosePair, CorpusReport
from recipe_exp.errors import DataError


def report_of(num_train: int = 1, **counts: Any) -> CorpusReport:
    usual: dict[str, Any] = {
        "num_examples": {"train": num_train, "validation": 0, "test": 0},
        "rejected": {},
        "first_rejection": {},
        "num_low_quality": 0,
        "num_duplicates": 0,
        "num_blank_lines": 0,
    }
    return CorpusReport(**{**usual, **counts})


REJECTED: dict[str, Any] = {
    "rejected": {"no title": 1, "not UTF-8": 2},
    "first_rejection": {"no title": "a.jsonl:2", "not UTF-8": "a.jsonl:7"},
}


def test_too_large_a_share_is_one_line_with_the_reasons() -> None:
    report = report_of(**REJECTED)
    assert report.rejected_fraction == 0.75
    report.check(0.75)
    with pytest.raises(DataError) as error:
        report.check(0.7)
    message = str(error.value)
    assert "3 of 4 records were rejected, more than data.max_rejected_fraction=0.7" in message
    assert "not UTF-8 (2, first a.jsonl:7), no title (1, first a.jsonl:2)" in message
    assert "\n" not in message


def test_a_corpus_without_any_example_is_refused() -> None:
    with pytest.raises(DataError, match=r"no usable record \(1 records, 0 rejected, 1 of low quality\)"):
        report_of(0, num_low_quality=1).check(1.0)
    with pytest.raises(DataError, match="2 in other languages"):
        report_of(0, num_other_language=2).check(1.0)


def test_every_fate_but_a_blank_line_is_that_of_a_record() -> None:
    counts = {"num_low_quality": 2, "num_duplicates": 3, "num_other_language": 5, "num_leaks": 7}
    assert report_of(11, num_blank_lines=13, **counts, **REJECTED).num_records == 11 + 2 + 3 + 5 + 7 + 3
    assert report_of(0, num_blank_lines=13).rejected_fraction == 0.0


def test_a_report_survives_json() -> None:
    report = report_of(**REJECTED, num_leaks=1, closest=(ClosePair(0.75, "Toast", "Toast with butter"),))
    assert msgspec.json.decode(msgspec.json.encode(report), type=CorpusReport) == report
