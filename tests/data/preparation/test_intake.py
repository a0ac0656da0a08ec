from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.config.data import DataConfig
from recipe_exp.data.preparation.intake import Accepted, Fate, Intake, LeftOut
from recipe_exp.data.preparation.stored_record import title_of
from recipe_exp.data.prompts import example_of, find_template
from recipe_exp.data.readers.rows import BLANK_LINE, Pair, Record, Rejection
from recipe_exp.data.split import split_of
from recipe_exp.recipes.quality import quality_checks
from recipe_exp.recipes.recipe import Recipe

TOAST = Recipe("Toast", ("bread",), ("Toast it.",))


def take(content: Recipe | Pair, **settings: object) -> Accepted | LeftOut:
    return Intake(DataConfig.model_validate(settings)).take_one(Record("a.jsonl", 3, content))


def accepted(content: Recipe | Pair, **settings: object) -> Accepted:
    outcome = take(content, **settings)
    assert isinstance(outcome, Accepted)
    return outcome


def left_out(content: Recipe | Pair, **settings: object) -> tuple[Fate, str]:
    outcome = take(content, **settings)
    assert isinstance(outcome, LeftOut)
    assert (outcome.place.file, outcome.place.line_number) == ("a.jsonl", 3)
    return outcome.fate, outcome.reason


def only_recipe(content: Recipe) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    record = accepted(content).record
    return record.title, record.ingredients, record.instructions


class TestCleaning:
    def test_every_line_is_cleaned_and_empty_ones_are_dropped(self) -> None:
        dirty = Recipe(" Mac &amp;  Cheese ", ("1½ cups milk", " ", "---", "salt\nand pepper"), ("Boil\u200b.", ""))
        assert only_recipe(dirty) == ("Mac & Cheese", ("1 1/2 cups milk", "salt and pepper"), ("Boil.",))

    def test_bullets_and_step_numbers_are_markup(self) -> None:
        dirty = Recipe("Toast", ("- bread", "• 2 eggs", "* butter"), ("1. Toast it.", "2) Eat.", "Step 3: Wash up."))
        assert only_recipe(dirty) == ("Toast", ("bread", "2 eggs", "butter"), ("Toast it.", "Eat.", "Wash up."))

    @pytest.mark.parametrize(
        "steps", [("2. Toast it.",), ("1. Toast it.", "Eat."), ("1. a", "1. b"), ("1 egg. Stir.",)]
    )
    def test_digits_that_do_not_count_the_steps_stay(self, steps: tuple[str, ...]) -> None:
        text = example_of(accepted(Recipe("Toast", ("bread",), steps)).record.content, "{title}").target_text
        assert all(f"{number}. {step}" in text for number, step in enumerate(steps, start=1))

    def test_a_pair_keeps_its_prompt_and_its_lines(self) -> None:
        pair = Pair(
            "Toast with bread? ", "**Toast**\n\n**Ingredients:**\n- bread\n- ½ egg\n\n**Instructions:**\n1. Do.\n"
        )
        example = example_of(accepted(pair).record.content, find_template("title"))
        assert example.source_text == "Toast with bread?"
        assert example.target_text == "**Toast**\n\n**Ingredients:**\n- bread\n- 1/2 egg\n\n**Instructions:**\n1. Do."
        assert example.title == "Toast"
        assert example.prompt_ingredients == ("bread",)

    def test_where_it_came_from_is_kept(self) -> None:
        assert accepted(Recipe("Toast", ("bread",), ("Do.",), source="a book")).record.source == "a book"


class TestRejection:
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (Recipe("", ("a",), ("b",)), "no title"),
            (Recipe(" !?", ("a",), ("b",)), "no title"),
            (Recipe("a", (), ("b",)), "no ingredients"),
            (Recipe("a", (" ", "\u200b"), ("b",)), "no ingredients"),
            (Recipe("a", ("b",), ()), "no instructions"),
            (Pair("", "b"), "no input"),
            (Pair("a", " \n "), "no output"),
        ],
    )
    def test_a_missing_part_is_a_reason(self, content: Recipe | Pair, reason: str) -> None:
        assert left_out(content) == (Fate.REJECTED, reason)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (Recipe("x" * 2001, ("water",), ("Boil.",)), "word over 2,000 characters"),
            (Recipe("Soup", ("water", "y" * 5000), ("Boil.",)), "word over 2,000 characters"),
            (Recipe("Soup", ("water",), ("Boil it. " * 20_000,)), "text over 100,000 characters"),
            (Recipe("Soup", ("a",) * 60_000, ("Boil.",)), "text over 100,000 characters"),
            (Pair("Write.", "z" * 3000), "word over 2,000 characters"),
        ],
        ids=["title", "ingredient", "step", "list", "pair"],
    )
    def test_what_is_longer_than_any_recipe_is_rejected(self, content: Recipe | Pair, reason: str) -> None:
        """Tokenizing a word of 50,000 characters took minutes."""
        assert left_out(content) == (Fate.REJECTED, reason)
        accepted(Recipe("Soup", ("water",), ("Boil. " * 1000,)))

    def test_what_a_reader_refused_stays_refused_and_a_blank_line_is_no_record(self) -> None:
        rows = [Rejection("a", 1, "not UTF-8"), Rejection("a", 2, BLANK_LINE), Record("a", 3, TOAST)]
        first, second, third = Intake(DataConfig()).take(rows)
        assert isinstance(first, LeftOut)
        assert isinstance(second, LeftOut)
        assert isinstance(third, Accepted)
        assert (first.fate, first.reason, second.fate) == (Fate.REJECTED, "not UTF-8", Fate.BLANK)
        assert [one.place.line_number for one in (first, second, third)] == [1, 2, 3]

    def test_a_secret_in_the_name_of_a_file_is_not_repeated(self) -> None:
        row = Rejection("https://user:hunter2hunter2@host/a.jsonl", 1, "not UTF-8")
        assert "hunter2" not in Intake(DataConfig()).take_one(row).place.file


class TestQuality:
    def test_a_score_that_came_with_the_record_counts(self) -> None:
        low = Recipe("Toast", ("bread",), ("Do.",), quality_score=0.2)
        assert left_out(low, min_quality_score=0.5)[0] == Fate.LOW_QUALITY
        assert left_out(Pair("a", "b", 0.1), min_quality_score=0.5)[0] == Fate.LOW_QUALITY
        assert accepted(low, min_quality_score=0.2).record.quality_score == 0.2

    def test_a_record_without_one_gets_a_computed_one(self) -> None:
        good = Recipe("Toast", ("2 slices bread", "1 tbsp butter"), ("Toast the bread.", "Spread the butter on it."))
        expected = quality_checks(good).score
        assert accepted(good).record.quality_score == expected
        text = example_of(accepted(good).record.content, "{title}").target_text
        assert accepted(Pair("Toast?", text)).record.quality_score == expected
        assert left_out(Pair("a", "b"), min_quality_score=0.9) == (
            Fate.LOW_QUALITY,
            "quality below data.min_quality_score=0.9",
        )


class TestKey:
    def test_it_is_the_normalised_title_with_the_ingredient_lines(self) -> None:
        key = accepted(TOAST).key
        assert accepted(Recipe("TOAST!", (" bread ",), ("Something else.",))).key == key
        assert accepted(Recipe("Toast", ("bread", "butter"), ("Toast it.",))).key != key
        assert accepted(Recipe("Toasts", ("bread",), ("Toast it.",))).key != key

    def test_of_a_pair_it_is_both_texts(self) -> None:
        keys = [accepted(pair).key for pair in (Pair("a", "b"), Pair("a", "b "), Pair("c", "b"))]
        assert keys[0] == keys[1] != keys[2]


class TestSplit:
    @given(number=st.integers(0, 10**6))
    def test_a_pair_stands_on_the_side_of_its_recipe(self, number: int) -> None:
        recipe = Recipe(f"Toast {number}", ("bread",), ("Do.",))
        pair = Pair(f"prompt {number}", f"# toast {number}\n\n## Ingredients\n- bread\n\n## Method\n1. Do.")
        fractions = {"validation_fraction": 0.4, "test_fraction": 0.4}
        assert accepted(recipe, **fractions).split == accepted(pair, **fractions).split

    def test_a_pair_without_a_title_is_split_by_its_prompt(self) -> None:
        outcome = accepted(Pair("What is hot?", "Soup is."), validation_fraction=0.5)
        assert title_of(outcome.record.content) == "What is hot?"
        assert outcome.split == split_of("What is hot?", 0.5, 0.02)
