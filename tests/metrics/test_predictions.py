from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.errors import DataError
from recipe_exp.metrics.predictions import Prediction, encode_predictions, read_predictions

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
PREDICTIONS = st.builds(
    Prediction, TEXTS, TEXTS, TEXTS, st.none() | st.lists(TEXTS, max_size=3).map(tuple), TEXTS, TEXTS
)


@given(st.lists(PREDICTIONS, min_size=1, max_size=4))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, predictions: list[Prediction]) -> None:
    path = tmp_path_factory.mktemp("predictions") / "p.jsonl"
    path.write_bytes(encode_predictions(predictions))
    assert read_predictions(path) == predictions


def test_a_file_of_anybodys_needs_three_fields(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "reference": "b", "prediction": "c", "model": 7}\n\n')
    assert read_predictions(path) == [Prediction("a", "b", "c")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a", "reference": "b"}', r"p\.jsonl:1: .*prediction"),
        ('{"prompt": "a", "reference": "b", "prediction": "c"}\nnonsense', r"p\.jsonl:2: "),
        ('{"prompt": "a", "reference": "b", "prediction": 3}', r"p\.jsonl:1: Expected `str`"),
        ("\n", "no predictions"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_predictions(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.jsonl: cannot be read"):
        read_predictions(tmp_path / "nothing.jsonl")
