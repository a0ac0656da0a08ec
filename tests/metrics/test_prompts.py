from __future__ import annotations

from collections.abc import Callable

import pytest

from recipe_exp.metrics import Reading
from recipe_exp.metrics.prompts import prompt_adherence

Changed = Callable[..., str]


def adherence(text: str, *asked: str) -> float | None:
    return prompt_adherence(Reading(text, prompt_ingredients=asked))


@pytest.mark.parametrize(
    ("listed", "asked", "found"),
    [
        ("2 eggs, beaten", "egg", True),
        ("2 boneless chicken breasts", "chicken", True),
        ("1 cup chicken stock", "chicken", False),
        ("1 tbsp olive oil", "olive oil", True),
        ("1 tbsp oil", "olive oil", False),
        ("1 tbsp extra-virgin olive oil", "2 cups olive oil", True),
        ("1 cup coconut milk", "milk", True),
        ("1 cup milk", "coconut milk", False),
        ("100 g butter or margarine", "butter", True),
        ("3 tomatoes", "tomato", True),
        ("1 eggplant", "egg", False),
        ("salt", "", False),
    ],
)
def test_prompt_adherence_matches_head_words(changed: Changed, listed: str, asked: str, found: bool) -> None:
    assert adherence(changed(ingredients=(listed,)), asked) == float(found)


def test_prompt_adherence_is_a_share(text: str) -> None:
    assert adherence(text, "flour", "eggs", "tofu", "honey") == 1 / 2
    assert adherence(text) is None
    assert adherence("", "flour") == 0.0


def test_an_ingredient_that_only_the_steps_name_does_not_adhere(changed: Changed) -> None:
    assert adherence(changed(instructions=("Add the honey.",)), "honey") == 0.0
