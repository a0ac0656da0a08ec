from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from recipe_exp.config.data import DataConfig
from recipe_exp.data.corpus import Corpus
from recipe_exp.data.language import LanguageFilter
from recipe_exp.data.readers.rows import Pair, Record, Row
from recipe_exp.errors import ConfigError
from recipe_exp.recipes.recipe import Recipe

ENGLISH = "Slice the leeks thinly and simmer them in the stock until they are soft, then season the soup."
GERMAN = "Den Lauch in feine Ringe schneiden und in der Brühe weich kochen, danach die Suppe abschmecken."


def test_without_the_library_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(ConfigError, match=r"data\.language=en: needs the package py3langid; pip install py3langid"):
        Corpus(DataConfig(language="en"), tmp_path)
    Corpus(DataConfig(), tmp_path)


def test_recipes_are_kept_by_the_language_of_their_instructions(tmp_path: Path) -> None:
    pytest.importorskip("py3langid")
    rows: list[Row] = [
        Record("a", 1, Recipe("Lauchsuppe", ("3 Stangen Lauch",), (ENGLISH,))),
        Record("a", 2, Recipe("Leek soup", ("3 leeks",), (GERMAN,))),
        Record("a", 3, Pair("Suppe?", ENGLISH)),
        Record("a", 4, Pair("Soup?", GERMAN)),
        Record("a", 5, Recipe("Egg", ("1 egg",), ("180 °",))),
    ]
    corpus = Corpus(DataConfig(language="en", validation_fraction=0.0, test_fraction=0.0), tmp_path)
    titles = [example.title for _, example in corpus.examples(rows)]
    assert titles == ["Lauchsuppe", "Suppe?", "Egg"]
    assert (corpus.report.num_other_language, corpus.report.num_rejected, corpus.report.num_records) == (2, 0, 5)
    kept = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert kept == [{"file": "a", "line": line, "reason": "not in data.language=en"} for line in (2, 4)]


def test_a_language_that_is_not_known_is_refused() -> None:
    pytest.importorskip("py3langid")
    with pytest.raises(ConfigError, match=r"data\.language=qqq: not known to py3langid"):
        LanguageFilter("qqq")


@pytest.mark.parametrize("language", ["English", "EN", "e", ""])
def test_a_language_is_named_by_its_code(language: str) -> None:
    with pytest.raises(ValueError, match="language"):
        DataConfig(language=language)
