from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recipe_exp.recipes.quality import WEIGHTS, QualityChecks, quality_checks
from recipe_exp.recipes.recipe import Recipe

SOUP = Recipe(
    "Leek Soup",
    ("2 leeks, sliced", "1 tablespoon butter", "3 cups chicken broth", "Half a lemon", "Salt and pepper"),
    (
        "Melt the butter in a pot and soften the leeks for ten minutes.",
        "Pour in the broth and simmer until everybody is at the table (about 20 minutes).",
        "Squeeze in the lemon, then season with salt and pepper.",
    ),
)
CHECKS = tuple(field.name for field in fields(QualityChecks))
SHARES = st.floats(0, 1)


def checks_of(
    *, title: str = SOUP.title, ingredients: tuple[str, ...] = SOUP.ingredients, steps: tuple[str, ...] | None = None
) -> QualityChecks:
    return quality_checks(Recipe(title, ingredients, SOUP.instructions if steps is None else steps))


def changed_checks(checks: QualityChecks) -> set[str]:
    """The checks that are worse than those of the whole soup."""
    perfect = quality_checks(SOUP)
    assert all(getattr(checks, name) <= getattr(perfect, name) for name in CHECKS)
    return {name for name in CHECKS if getattr(checks, name) < getattr(perfect, name)}


def test_whole_recipe_passes_every_check() -> None:
    assert quality_checks(SOUP) == QualityChecks(1.0, 1.0, 1.0, 1.0, 1.0)
    assert quality_checks(SOUP).score == 1.0


def test_score_that_came_with_the_recipe_does_not_count() -> None:
    assert quality_checks(replace(SOUP, quality_score=0.1, source="a book")) == quality_checks(SOUP)


def test_weights_name_every_check_and_sum_to_one() -> None:
    assert tuple(WEIGHTS) == CHECKS
    assert sum(WEIGHTS.values()) == pytest.approx(1)
    assert all(weight > 0 for weight in WEIGHTS.values())


@pytest.mark.parametrize("name", CHECKS)
def test_score_is_the_weighted_mean(name: str) -> None:
    assert replace(QualityChecks(0.0, 0.0, 0.0, 0.0, 0.0), **{name: 1.0}).score == pytest.approx(WEIGHTS[name])


@given(st.tuples(SHARES, SHARES, SHARES, SHARES, SHARES), st.sampled_from(CHECKS), SHARES)
def test_score_is_bounded_and_monotone(
    values: tuple[float, float, float, float, float], name: str, other: float
) -> None:
    checks = QualityChecks(*values)
    low, high = sorted((getattr(checks, name), other))
    assert 0 <= replace(checks, **{name: low}).score <= replace(checks, **{name: high}).score <= 1


@pytest.mark.parametrize(
    ("checks", "worse"),
    [
        (checks_of(ingredients=("leeks, sliced", *SOUP.ingredients[1:])), {"quantities"}),
        (checks_of(ingredients=(*SOUP.ingredients, "1 turnip")), {"used_ingredients"}),
        (checks_of(title=""), {"lengths"}),
        (checks_of(title="Very " * 30 + "Good Soup"), {"lengths"}),
        (checks_of(steps=(*SOUP.instructions, SOUP.instructions[1])), {"repetition"}),
        (
            checks_of(steps=(*SOUP.instructions, "Serve it hot, serve it hot, serve it hot, serve it hot.")),
            {"repetition"},
        ),
        (checks_of(ingredients=(*SOUP.ingredients, *SOUP.ingredients[:1] * 4)), {"repetition"}),
        (checks_of(steps=(*SOUP.instructions[:2], "Squeeze in the lemon, then season with salt and")), {"ending"}),
        (checks_of(steps=(*SOUP.instructions[:2], "Squeeze in the lemon, season with salt, pepper...")), {"ending"}),
        (checks_of(steps=(*SOUP.instructions, "Serve hot. Read more")), {"ending"}),
        (checks_of(title="Leek Soup That Everybody..."), {"ending"}),
        (checks_of(steps=(*SOUP.instructions, "Serve (with bread.")), {"ending"}),
        (checks_of(ingredients=(*SOUP.ingredients[:3], "Half a lemon (small", "Salt")), {"ending"}),
    ],
)
def test_one_fault_lowers_its_own_check_alone(checks: QualityChecks, worse: set[str]) -> None:
    assert changed_checks(checks) == worse
    assert checks.score < 1


@pytest.mark.parametrize(
    "line",
    [
        *(
            "2 eggs",
            "1 1/2 cups flour",
            "1½ cups flour",
            "½ lemon",
            ".5 l water",
            "1,5 dl Milch",
            "Mehl 200g",
            "100g/4oz flour",
        ),
        *("three eggs", "a lemon", "juice of one lemon", "half a dozen eggs", "Pinch of nutmeg", "few sprigs thyme"),
        *("salt", "Kosher salt and freshly ground black pepper", "Olive oil", "ice water", "sugar to taste"),
        *("oil for frying", "flour, for dusting", "mint leaves, to garnish", "chives (optional)", "bread, as needed"),
    ],
)
def test_lines_with_a_quantity_or_without_need_of_one(line: str) -> None:
    assert checks_of(ingredients=(line,)).quantities == 1


@pytest.mark.parametrize(
    "line",
    [
        "flour",
        "teaspoon salt",
        "cup milk",
        "1/0 cups flour",
        "1//2 cup flour",
        "100% rye flour",
        "1234567 eggs",
        "red pepper sauce",
        "-",
    ],
)
def test_lines_without_a_readable_quantity(line: str) -> None:
    assert checks_of(ingredients=(line,)).quantities == 0


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("2 large ripe tomatoes, diced", "Add the tomato."),
        ("1 potato", "Boil the potatoes."),
        ("1 (8 ounce) package pepper Jack cheese", "Strew the cheese over it."),
        ("4 cloves, crushed", "Add the cloves."),
        ("skinless, boneless chicken breasts", "Fry the chicken."),
        ("200 g Zwiebeln", "Die Zwiebelringe braten."),
        ("200 г муки", "Добавьте муку."),
        ("卵 3個", "卵を溶きほぐす。"),
    ],
)
def test_food_that_the_steps_name(line: str, step: str) -> None:
    assert checks_of(ingredients=(line,), steps=(step,)).used_ingredients == 1


@pytest.mark.parametrize(
    "line", ["2 cups flour", "1 large cup warm milk (for the butter)", "1 ham", "5", "3 chef's hats"]
)
def test_food_that_the_steps_do_not_name(line: str) -> None:
    step = "Pour a large warm cup of water over grandma's butter, in the hamlet."
    assert checks_of(ingredients=(line,), steps=(step,)).used_ingredients == 0


def test_unnamed_among_all_ingredients_counts_half() -> None:
    ingredients = ("1 cup milk", "1 cup cream")
    assert checks_of(ingredients=ingredients, steps=("Heat the milk.",)).used_ingredients == 0.5
    assert checks_of(ingredients=ingredients, steps=("Heat the milk. Mix all ingredients.",)).used_ingredients == 0.75


def test_headings_and_blank_lines_are_no_ingredients() -> None:
    assert checks_of(ingredients=("For the soup:", *SOUP.ingredients, " ")) == quality_checks(SOUP)


@pytest.mark.parametrize(
    ("shorter", "longer"),
    [
        (checks_of(ingredients=("1 leek",)), checks_of(ingredients=("1 leek", "1 egg"))),
        (checks_of(steps=("Fry leeks.",)), checks_of(steps=("Fry leeks in butter.",))),
        (
            checks_of(steps=("Fry leeks in butter.",)),
            checks_of(steps=("Fry leeks in butter.", "Serve them with bread.")),
        ),
        (checks_of(steps=("Fry.", "Serve.")), checks_of(steps=("Fry leeks.", "Serve leeks."))),
        (checks_of(ingredients=("1 leek and " * 10,) * 2), checks_of()),
        (checks_of(ingredients=tuple(f"{number} leeks" for number in range(60))), checks_of()),
        (checks_of(steps=("Stir the soup well. " * 60,)), checks_of()),
        (checks_of(steps=("Stir the soup well.",) * 90), checks_of()),
    ],
)
def test_lengths_rise_towards_what_is_usual(shorter: QualityChecks, longer: QualityChecks) -> None:
    assert 0 < shorter.lengths < longer.lengths <= 1


def test_one_paragraph_is_enough_and_an_icing_may_repeat_the_sugar() -> None:
    assert checks_of(steps=(" ".join(SOUP.instructions),)).lengths == 1
    assert checks_of(ingredients=(*SOUP.ingredients, SOUP.ingredients[1])).repetition == 1


def test_longer_loops_score_lower() -> None:
    scores = [checks_of(steps=(*SOUP.instructions, *SOUP.instructions[:1] * times)).repetition for times in range(6)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 6


@pytest.mark.parametrize(
    "steps", [("Cut the leeks", "Boil them"), ("Cut.", "Boil (well done)"), ("Cut.", "Ask: “Done?”")]
)
def test_whole_endings(steps: tuple[str, ...]) -> None:
    assert checks_of(steps=steps).ending == 1


@pytest.mark.parametrize(
    "steps", [("Cut the leeks", "Boil them with"), ("Cut the leeks. Boil th",), ("Cut the leeks,",)]
)
def test_endings_that_are_cut_off(steps: tuple[str, ...]) -> None:
    assert checks_of(steps=steps).ending == 0


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(
            "Pfannkuchen",
            ("200 g Mehl", "3 Eier", "500 ml Milch", "1 Prise Salz", "Butter"),
            ("Mehl, Eier, Milch und Salz glatt verrühren.", "Den Teig in heißer Butter ausbacken."),
        ),
        Recipe(
            "玉子焼き",
            ("卵 3個", "砂糖 大さじ1", "醤油 小さじ1", "油 適量"),
            ("卵を溶きほぐし、砂糖と醤油を加えてよく混ぜる。", "フライパンに油を熱し、卵液を流し入れて巻く。"),
        ),
        Recipe(
            "Блины",
            ("200 г муки", "3 яйца", "500 мл молока", "соль"),
            ("Смешайте муку, яйца, молоко и соль.", "Жарьте блины на сковороде."),
        ),
    ],
)
def test_other_languages_lose_only_the_words_for_quantities(recipe: Recipe) -> None:
    checks = quality_checks(recipe)
    assert replace(checks, quantities=1.0) == QualityChecks(1.0, 1.0, 1.0, 1.0, 1.0)
    assert checks.score >= 1 - WEIGHTS["quantities"]


@pytest.mark.parametrize("ingredients", [(), ("",), ("Sauce:",)])
def test_nothing_to_look_at_scores_zero(ingredients: tuple[str, ...]) -> None:
    assert quality_checks(Recipe("", ingredients, ())).score == 0
    without = quality_checks(Recipe("Soup", ingredients, ("Mix all ingredients with everything.",)))
    assert (without.quantities, without.used_ingredients, without.lengths) == (0, 0, 0)


def test_without_steps_only_quantities_count() -> None:
    assert checks_of(steps=()) == QualityChecks(1.0, 0.0, 0.0, 0.0, 0.0)


TEXTS = st.text(max_size=30) | st.text(st.sampled_from("1/½.,() \n:aİegs個卵…"), max_size=30)


@given(TEXTS, st.lists(TEXTS, max_size=5), st.lists(TEXTS, max_size=5))
@example("İ", ["1/\u2044½\n\n:", "\ud800"], ["\x85\u2028", "ſ\n"])
def test_any_text_has_checks_in_bounds(title: str, ingredients: list[str], steps: list[str]) -> None:
    checks = quality_checks(Recipe(title, tuple(ingredients), tuple(steps)))
    assert all(0 <= getattr(checks, name) <= 1 for name in CHECKS)
    assert 0 <= checks.score <= 1
    assert checks == quality_checks(Recipe(title, tuple(ingredients), tuple(steps)))
