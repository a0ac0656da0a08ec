from __future__ import annotations

import pytest

from recipe_exp.recipes import canonical_unit
from recipe_exp.recipes.units import (
    _SPELLINGS,
    COUNTED_UNITS,
    FOOD_UNITS,
    LOOSE_UNITS,
    TRAILING_UNITS,
    UNIT_SPELLINGS,
)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("Tbsps.", "tablespoon"),
        ("T", "tablespoon"),
        ("t", "teaspoon"),
        ("c.", "cup"),
        ("fl. oz.", "fluid ounce"),
        ("LBS", "pound"),
        ("litres", "litre"),
        ("leaves", "leaf"),
        ("pinches", "pinch"),
        ("boxes", "box"),
        ("teaspoonful", "teaspoon"),
        ("flour", None),
        ("", None),
    ],
)
def test_canonical_unit(spelling: str, name: str | None) -> None:
    assert canonical_unit(spelling) == name


def test_no_spelling_names_two_units() -> None:
    spellings = [spelling for name, others in _SPELLINGS.items() for spelling in {name, *others}]
    assert len(spellings) == len(set(spellings))


def test_every_group_holds_canonical_names() -> None:
    assert set(UNIT_SPELLINGS.values()) >= COUNTED_UNITS | FOOD_UNITS | LOOSE_UNITS | TRAILING_UNITS
