from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.data.prompts import TEMPLATES, find_template, make_example, parse_prompt
from recipe_exp.errors import ConfigError
from recipe_exp.recipes.markdown import parse_recipe
from recipe_exp.recipes.recipe import Recipe

PANCAKES = Recipe("Thin Pancakes", ("1 1/2 cups flour", "2 eggs"), ("Whisk.", "Fry."))
BOTH = find_template("title_and_ingredients")


def test_each_named_template_shows_what_its_name_says() -> None:
    title_only = make_example(PANCAKES, find_template("title"))
    assert title_only.source_text == "Write a recipe for Thin Pancakes."
    assert title_only.prompt_ingredients == ()

    both = make_example(PANCAKES, BOTH)
    assert both.source_text == "Write a recipe for Thin Pancakes using: 1 1/2 cups flour, 2 eggs"
    assert both.prompt_ingredients == PANCAKES.ingredients


def test_the_target_is_the_recipe_in_markdown_and_the_title_its_own() -> None:
    example = make_example(PANCAKES, BOTH)
    assert parse_recipe(example.target_text) == PANCAKES
    assert example.title == "Thin Pancakes"


def test_a_literal_template_may_show_parts_in_any_order_and_more_than_once() -> None:
    template = find_template("{ingredients} -> {title}! {title}")
    example = make_example(PANCAKES, template)
    assert example.source_text == "1 1/2 cups flour, 2 eggs -> Thin Pancakes! Thin Pancakes"
    assert example.prompt_ingredients == PANCAKES.ingredients


@pytest.mark.parametrize("title", ["{ingredients}", "{title}", "{0}", "{", "}}", "%s {x!r}", r"\1 \g<0>"])
def test_braces_in_a_recipe_are_text(title: str) -> None:
    recipe = Recipe(title, ("1 {title}", "{}"), ("Eat.",))
    assert make_example(recipe, BOTH).source_text == f"Write a recipe for {title} using: 1 {{title}}, {{}}"


@given(title=st.text(min_size=1), ingredients=st.lists(st.text(min_size=1), min_size=1))
def test_the_prompt_is_the_template_with_the_recipes_own_text(title: str, ingredients: list[str]) -> None:
    recipe = Recipe(title, tuple(ingredients), ("Eat.",))
    assert make_example(recipe, "<{title}|{ingredients}>").source_text == f"<{title}|{', '.join(ingredients)}>"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("titel", "did you mean title?"),
        ("title_and_ingredient", "did you mean title_and_ingredients?"),
        ("zzz", "there are title and title_and_ingredients"),
        ("Cook {titel}", "no such placeholder {titel}; did you mean {title}?"),
        ("Cook {ingredient}", "did you mean {ingredients}?"),
        ("Cook {}", "no such placeholder {}"),
        ("Cook {title!r}", "no such placeholder {title!r}"),
        ("Cook {title} {", "a brace without its partner"),
        ("Cook title}", "a brace without its partner"),
        ("Cook {{title}}", "a brace without its partner"),
    ],
)
def test_a_wrong_template_is_refused_in_one_line_with_the_remedy(prompt: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        find_template(prompt)
    assert str(error.value).startswith(f"data.prompt={prompt}: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text(max_size=30))
def test_any_text_is_a_template_or_a_mistake(prompt: str) -> None:
    try:
        template = find_template(prompt)
    except ConfigError:
        return
    make_example(PANCAKES, template)


@pytest.mark.parametrize("text", ["Pancakes, please", "", "a {title} of my own", "2 eggs; what now?", "title: Cake"])
def test_a_raw_prompt_stays_as_it_is(text: str) -> None:
    assert parse_prompt(text, BOTH) == text


@pytest.mark.parametrize(
    "text",
    [
        "title=Thin Pancakes; ingredients=1 1/2 cups flour, 2 eggs",
        "ingredients=1½ cups flour,2 eggs;title=Thin  Pancakes",
        " title = Thin Pancakes ;ingredients = 1 1/2 cups flour, , 2 eggs; ",
    ],
)
def test_a_structured_prompt_reads_like_the_prompts_of_training(text: str) -> None:
    for template in TEMPLATES.values():
        assert parse_prompt(text, template) == make_example(PANCAKES, template).source_text


def test_braces_in_a_structured_prompt_are_text() -> None:
    assert parse_prompt("title={ingredients}; ingredients={title}", BOTH) == (
        "Write a recipe for {ingredients} using: {title}"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("title=Cake", "gives no ingredients"),
        ("ingredients=flour", "gives no title"),
        ("title=; ingredients=flour", "gives no title"),
        ("titel=Cake; ingredients=flour", "did you mean title?"),
        ("title=Cake; ingredient=flour", "did you mean ingredients?"),
    ],
)
def test_an_incomplete_structured_prompt_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=r"^prompt ") as error:
        parse_prompt(text, BOTH)
    assert expected in str(error.value)
