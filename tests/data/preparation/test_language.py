from __future__ import annotations

import sys

import pytest

from recipe_exp.config.data import DataConfig
from recipe_exp.data.preparation.intake import Accepted, Fate, Intake, LeftOut
from recipe_exp.data.preparation.language import LanguageFilter
from recipe_exp.data.readers.rows import Pair, Record, Row
from recipe_exp.errors import ConfigError
from recipe_exp.recipes.recipe import Recipe

ENGLISH = "Slice the leeks thinly and simmer them in the stock until they are soft, then season the soup."
GERMAN = "Den Lauch in feine Ringe schneiden und in der Brühe weich kochen, danach die Suppe abschmecken."


def test_without_the_library_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(ConfigError, match=r"data\.language=en: needs the package py3langid; pip install py3langid"):
        Intake(DataConfig(language="en"))
    Intake(DataConfig())


def test_recipes_are_kept_by_the_language_of_their_instructions() -> None:
    pytest.importorskip("py3langid")
    rows: list[Row] = [
        Record("a", 1, Recipe("Lauchsuppe", ("3 Stangen Lauch",), (ENGLISH,))),
        Record("a", 2, Recipe("Leek soup", ("3 leeks",), (GERMAN,))),
        Record("a", 3, Pair("Suppe?", ENGLISH)),
        Record("a", 4, Pair("Soup?", GERMAN)),
        Record("a", 5, Recipe("Egg", ("1 egg",), ("180 °",))),
    ]
    outcomes = Intake(DataConfig(language="en", validation_fraction=0.0, test_fraction=0.0)).take(rows)
    assert [one.place.line_number for one in outcomes if isinstance(one, Accepted)] == [1, 3, 5]
    left_out = [(one.place.line_number, one.fate, one.reason) for one in outcomes if isinstance(one, LeftOut)]
    assert left_out == [(line, Fate.OTHER_LANGUAGE, "not in data.language=en") for line in (2, 4)]


def test_a_language_that_is_not_known_is_refused() -> None:
    pytest.importorskip("py3langid")
    with pytest.raises(ConfigError, match=r"data\.language=qqq: not known to py3langid"):
        LanguageFilter("qqq")


@pytest.mark.parametrize("language", ["English", "EN", "e", ""])
def test_a_language_is_named_by_its_code(language: str) -> None:
    with pytest.raises(ValueError, match="language"):
        DataConfig(language=language)
