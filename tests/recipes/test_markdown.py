from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.recipes import LineKind, Recipe, clean_line, parse_recipe, read_recipe, render_markdown

PANCAKES = Recipe(
    "Pancakes", ("1 cup flour", "1 egg", "1 cup milk"), ("Mix everything.", "Fry in butter.", "Serve hot.")
)
CANONICAL = """**Pancakes**

**Ingredients:**
- 1 cup flour
- 1 egg
- 1 cup milk

**Instructions:**
1. Mix everything.
2. Fry in butter.
3. Serve hot."""

# Clean: what `clean_line` returns, not empty; and the title is none of the words that open a section.
SECTION_WORDS = ("ingredient", "instruction", "direction", "method", "step", "preparation", "procedure")
OTHER_SECTION_WORDS = ("note", "tip", "nutrition", "variations")
characters = st.characters() | st.sampled_from("*#-•.:)1 ")
clean_lines = st.text(characters, min_size=1, max_size=25).map(clean_line).filter(bool)
clean_titles = clean_lines.filter(
    lambda title: not title.casefold().strip("* \t:").startswith((*SECTION_WORDS, *OTHER_SECTION_WORDS))
)
clean_recipes = st.builds(
    Recipe,
    clean_titles,
    st.lists(clean_lines, max_size=4).map(tuple),
    st.lists(clean_lines, max_size=4).map(tuple),
)


def test_canonical_form_is_exact() -> None:
    assert render_markdown(PANCAKES) == CANONICAL


@settings(max_examples=200, deadline=None)
@given(clean_recipes)
def test_parsing_inverts_rendering(recipe: Recipe) -> None:
    parsed = read_recipe(render_markdown(recipe))
    assert parsed.recipe == recipe
    assert parsed.step_numbers == tuple(range(1, len(recipe.instructions) + 1))
    assert all(line.canonical for line in parsed.lines)


@given(st.text() | st.text(st.sampled_from("*#-•1.) \n:Ingredtsu\u2028"), max_size=60))
def test_parsing_never_raises_and_numbers_match_steps(text: str) -> None:
    parsed = read_recipe(text)
    assert len(parsed.step_numbers) == len(parsed.recipe.instructions)
    assert all(parsed.recipe.ingredients)
    assert all(parsed.recipe.instructions)


def test_a_number_of_thousands_of_digits_is_text() -> None:
    assert read_recipe("**Instructions:**\n" + "9" * 5000 + ". Stir").step_numbers == (None,)


@pytest.mark.parametrize("title", ["**Pancakes**", "# Pancakes", "## Pancakes ##", "# **Pancakes**", "Pancakes"])
@pytest.mark.parametrize("heading", ["**{}:**", "**{}**:", "**{}**", "## {}", "### {}:", "{}:", "{}"])
@pytest.mark.parametrize("bullet", ["- ", "* ", "• ", "•"])
@pytest.mark.parametrize("number", ["{}. ", "{}) ", "  {}.  "])
def test_other_markup_gives_the_same_recipe(title: str, heading: str, bullet: str, number: str) -> None:
    lines = [title, "", heading.format("Ingredients"), *(bullet + line for line in PANCAKES.ingredients)]
    lines += ["", heading.format("Instructions")]
    lines += [number.format(i) + step for i, step in enumerate(PANCAKES.instructions, start=1)]
    assert parse_recipe("\n".join(lines)) == PANCAKES
    assert parse_recipe("\r\n".join(lines)) == PANCAKES


@pytest.mark.parametrize("heading", ["Directions", "METHOD", "Steps", "Preparation"])
def test_synonyms_of_instructions(heading: str) -> None:
    assert parse_recipe(CANONICAL.replace("Instructions", heading)) == PANCAKES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Recipe("", (), ())),
        ("just some words", Recipe("", (), ())),
        ("**Toast**", Recipe("Toast", (), ())),
        ("**Ingredients:**\n- bread", Recipe("", ("bread",), ())),
        ("**Instructions:**\n1. Toast it.", Recipe("", (), ("Toast it.",))),
        ("**Toast**\n- bread\n1. Toast it.", Recipe("Toast", ("bread",), ("Toast it.",))),
        ("**Toast**\n\n**Ingredients:**\n-\n- \n\n**Instructions:**\n1.\n2. ", Recipe("Toast", (), ())),
    ],
)
def test_missing_parts_come_back_empty(text: str, expected: Recipe) -> None:
    assert parse_recipe(text) == expected


def test_an_unmarked_line_directly_below_a_step_continues_it() -> None:
    parsed = read_recipe("**Instructions:**\n1. Mix the flour\n   and the milk.\n2.\nFry.\n\nServe.")
    assert parsed.recipe.instructions == ("Mix the flour and the milk.", "Fry.", "Serve.")
    assert parsed.step_numbers == (1, 2, None)


def test_notes_and_subheadings_are_not_part_of_the_recipe() -> None:
    text = CANONICAL.replace("- 1 egg", "**For the batter:**\n- 1 egg") + "\n\n**Notes:**\n- Keeps two days."
    parsed = read_recipe(text)
    assert parsed.recipe == PANCAKES
    assert [line.text for line in parsed.of_kind(LineKind.OTHER)] == [
        "**For the batter:**",
        "",
        "- Keeps two days.",
    ]


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ("**Pancakes**", "# Pancakes", LineKind.TITLE),
        ("**Ingredients:**", "Ingredients:", LineKind.INGREDIENTS_HEADING),
        ("**Instructions:**", "**Directions:**", LineKind.INSTRUCTIONS_HEADING),
        ("- 1 egg", "* 1 egg", LineKind.INGREDIENT),
        ("2. Fry", "2) Fry", LineKind.STEP),
        ("2. Fry", "Fry", LineKind.CONTINUATION),
    ],
)
def test_the_markup_that_was_read_is_reported(old: str, new: str, kind: LineKind) -> None:
    lines = read_recipe(CANONICAL.replace(old, new)).lines
    assert [line.kind for line in lines if not line.canonical] == [kind]


def test_wrong_numbers_are_kept() -> None:
    assert read_recipe(CANONICAL.replace("2. Fry", "7. Fry")).step_numbers == (1, 7, 3)


def test_render_does_not_depend_on_metadata() -> None:
    fields: dict[str, Any] = {"quality_score": 0.5, "source": "somewhere"}
    recipe = Recipe(PANCAKES.title, PANCAKES.ingredients, PANCAKES.instructions, **fields)
    assert render_markdown(recipe) == CANONICAL
