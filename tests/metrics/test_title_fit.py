from __future__ import annotations

from dataclasses import replace
from itertools import islice, pairwise

from recipe_exp.data.sample import sample_recipes
from recipe_exp.metrics import Knowledge, Reading
from recipe_exp.metrics.title_fit import title_fit, title_words
from recipe_exp.recipes import Recipe, render_markdown


def fit(recipe: Recipe, knowledge: Knowledge) -> float:
    found = title_fit(Reading(render_markdown(recipe), knowledge=knowledge))
    assert found is not None
    return found


def test_a_title_fits_its_recipe_better_than_anothers(knowledge: Knowledge) -> None:
    recipes = list(islice(sample_recipes(seed=9), 40))
    pairs = [(recipe, replace(recipe, title=other.title)) for recipe, other in pairwise(recipes)]
    wins = [(fit(a, knowledge) > fit(b, knowledge)) + (fit(a, knowledge) == fit(b, knowledge)) / 2 for a, b in pairs]
    assert sum(wins) / len(wins) > 0.8


def test_a_title_that_says_nothing_is_neither(knowledge: Knowledge) -> None:
    recipe = Recipe("The Best of My", ("1 cup flour",), ("Mix.",))
    assert title_words(recipe.title) == ()
    assert fit(recipe, knowledge) == 0.5


def test_an_unknown_word_counts_by_whether_the_recipe_names_it(knowledge: Knowledge) -> None:
    named = Recipe("Quokka", ("1 quokka",), ("Boil the quokka.",))
    assert fit(named, knowledge) > 0.5 > fit(replace(named, title="Wombat"), knowledge)
    assert title_fit("") is None
