from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.data.readers.markdown import parse, read_markdown, title_of
from recipe_exp.data.readers.rows import Rejection
from recipe_exp.recipes.markdown import render_markdown
from recipe_exp.recipes.recipe import Recipe

SOUP = Recipe("Leek Soup", ("3 leeks", "water"), ("Cut the leeks.", "Simmer."))


@pytest.mark.parametrize(
    "text",
    [
        "# Leek Soup\n\n## Ingredients\n- 3 leeks\n- water\n\n## Directions\n1. Cut the leeks.\n2. Simmer.",
        "Leek Soup\n===\n\nIngredients\n---\n* 3 leeks\n* water\n\nMethod\n------\nCut the leeks.\n\nSimmer.",
        "# Leek Soup\n**Ingredients:**\n+ 3 leeks\n+ water\n\n**Instructions**\n- Cut the leeks.\n- Simmer.",
        "# Leek Soup #\n\n__Ingredients__\n\n3 leeks\nwater\n\n__Directions__\n\n1) Cut\n the leeks.\n2) Simmer.",
        "# Leek Soup\n\nIngredients:\n- 3 leeks\n- water\n\nInstructions:\n1. Cut the\n   leeks.\n2. Simmer.",
        "# Leek Soup\n\nFor winter.\n\n- 3 leeks\n- water\n\nCut the leeks.\n\nSimmer.",
        "# Leek Soup\n\n- 3 leeks\n- water\n\n1. Cut the leeks.\n2. Simmer.\n\ntags: soup",
        "# Leek Soup\n\n## Ingredients\n- 3 leeks\n- water\n\nCut the leeks.\n\nSimmer.",
        "---\ntitle: Leek Soup\n---\n- Time: 5\n\n### What you need\n- [ ] 3 leeks\n- [x] water\n### How to make it\n"
        "Cut the leeks.\n\nSimmer.\n\n## Notes\nNothing.\n- more\n",
        '+++\ntitle = "Leek Soup"\n+++\n## INGREDIENTS\n- 3 leeks\n- water\n\n## Steps\n![x](y)\n1. Cut the leeks.\n'
        "***\n1. Simmer.\n## About\nBy me.",
        "---\ntitle: Leek Soup\ningredients: [3 leeks, water]\ndirections:\n- Cut the leeks.\n- Simmer.\n---\nText.",
        "# Leek Soup\n\n> ## Ingredients\n> - 3 leeks\n> - water\n>\n> ## Method\n> Cut the leeks.\n>\n> Simmer.",
        "# Leek Soup\n## Ingredients\n- 3 leeks\n- water\n## Method\n1\\. Cut the leeks.\n2\\. Simmer.",
    ],
    ids=range(13),
)
def test_documents_of_every_style(text: str) -> None:
    assert parse(text, "other") == SOUP


def test_groups_inside_a_part_stay_part_of_it() -> None:
    text = "# Pie\n## Ingredients\n### Dough\n- flour\n### Filling\n- apples\n## Method\n### A\n1. Mix.\n### B\nBake."
    assert parse(text, "") == Recipe("Pie", ("flour", "apples"), ("Mix.", "Bake."))


def test_without_a_title_the_file_names_the_recipe(tmp_path: Path) -> None:
    assert parse("- 3 leeks\n\nSimmer.", "Leek Soup").title == "Leek Soup"
    assert parse("---\ntags: [a]\n---\n- 3 leeks\n\nSimmer.", "Leek Soup").title == "Leek Soup"
    assert title_of(tmp_path / "leek-soup_2.md.gz") == "leek soup 2"


@pytest.mark.parametrize(
    "matter",
    ["title: [", "title: &a [*a]", "- a\n- b", "x: !!python/object:os.system {}", "[" * 100_000, "a: " + "b" * 99999],
)
def test_front_matter_that_cannot_be_read_is_none(matter: str) -> None:
    recipe = parse(f"---\n{matter}\n---\n# Leek Soup\n- 3 leeks\n\nSimmer.", "other")
    assert recipe == Recipe("Leek Soup", ("3 leeks",), ("Simmer.",))


def test_aliases_do_not_multiply() -> None:
    lines = ["a0: &a0 {ingredients: [x]}", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
    started = time.perf_counter()
    parse("---\n" + "\n".join(lines) + "\n---\n", "x")
    assert time.perf_counter() - started < 2.0


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"# Soup \xe8", "not UTF-8"), (b"# So\0up", "NUL bytes"), (b"x" * (2**24 + 1), "file over 16 MiB")],
    ids=["latin-1", "nul", "long"],
)
def test_a_file_that_is_no_text_is_a_rejection(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.md"
    path.write_bytes(content)
    assert list(read_markdown(path)) == [Rejection(str(path), 1, reason)]


LINES = st.text("abc 12/é", min_size=1, max_size=12).map(str.strip).filter(lambda line: line[:1].isalpha())


@settings(max_examples=200)
@given(title=LINES, ingredients=st.lists(LINES, min_size=1, max_size=4), steps=st.lists(LINES, min_size=1, max_size=4))
def test_our_own_markdown_is_read_back(title: str, ingredients: list[str], steps: list[str]) -> None:
    recipe = Recipe(title, tuple(ingredients), tuple(steps))
    assert parse(render_markdown(recipe), "other") == recipe


@settings(max_examples=300)
@given(st.text(st.sampled_from("#*-_=>[]()!1. :abIngredients\n\t"), max_size=80) | st.text(max_size=60))
def test_no_text_raises(text: str) -> None:
    assert isinstance(parse(text, "title"), Recipe)
