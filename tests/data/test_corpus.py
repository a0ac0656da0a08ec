from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.config.data import DataConfig
from recipe_exp.data import corpus as corpus_module
from recipe_exp.data.corpus import CORPUS_VERSION, Corpus, CorpusReport, Split, split_of
from recipe_exp.data.example import Example
from recipe_exp.data.readers.rows import BLANK_LINE, Pair, Record, Rejection, Row
from recipe_exp.errors import DataError
from recipe_exp.recipes.markdown import parse_recipe
from recipe_exp.recipes.recipe import Recipe

TOAST = Recipe("Toast", ("bread",), ("Toast it.",))


def records(*contents: Recipe | Pair) -> list[Row]:
    return [Record("a.jsonl", number, content) for number, content in enumerate(contents, start=1)]


def run(tmp_path: Path, rows: Iterable[Row], **settings_: object) -> tuple[list[tuple[Split, Example]], CorpusReport]:
    corpus = Corpus(DataConfig.model_validate(settings_), tmp_path)
    return list(corpus.examples(rows)), corpus.report


def only_recipe(tmp_path: Path, recipe: Recipe) -> Recipe:
    ((_, example),), _ = run(tmp_path, records(recipe))
    return parse_recipe(example.target_text)


class TestCleaning:
    def test_every_line_is_cleaned_and_empty_ones_are_dropped(self, tmp_path: Path) -> None:
        dirty = Recipe(" Mac &amp;  Cheese ", ("1½ cups milk", " ", "---", "salt\nand pepper"), ("Boil\u200b.", ""))
        expected = Recipe("Mac & Cheese", ("1 1/2 cups milk", "salt and pepper"), ("Boil.",))
        assert only_recipe(tmp_path, dirty) == expected

    def test_bullets_and_step_numbers_are_markup(self, tmp_path: Path) -> None:
        dirty = Recipe("Toast", ("- bread", "• 2 eggs", "* butter"), ("1. Toast it.", "2) Eat.", "Step 3: Wash up."))
        expected = Recipe("Toast", ("bread", "2 eggs", "butter"), ("Toast it.", "Eat.", "Wash up."))
        assert only_recipe(tmp_path, dirty) == expected

    @pytest.mark.parametrize(
        "steps", [("2. Toast it.",), ("1. Toast it.", "Eat."), ("1. a", "1. b"), ("1 egg. Stir.",)]
    )
    def test_digits_that_do_not_count_the_steps_stay(self, tmp_path: Path, steps: tuple[str, ...]) -> None:
        ((_, example),), _ = run(tmp_path, records(Recipe("Toast", ("bread",), steps)))
        assert all(f"{number}. {step}" in example.target_text for number, step in enumerate(steps, start=1))

    def test_a_pair_keeps_its_prompt_and_its_lines(self, tmp_path: Path) -> None:
        pair = Pair(
            "Toast with bread? ", "**Toast**\n\n**Ingredients:**\n- bread\n- ½ egg\n\n**Instructions:**\n1. Do.\n"
        )
        ((_, example),), _ = run(tmp_path, records(pair))
        assert example.source_text == "Toast with bread?"
        assert example.target_text == "**Toast**\n\n**Ingredients:**\n- bread\n- 1/2 egg\n\n**Instructions:**\n1. Do."
        assert example.title == "Toast"
        assert example.prompt_ingredients == ("bread",)


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
    def test_a_missing_part_is_a_reason(self, tmp_path: Path, content: Recipe | Pair, reason: str) -> None:
        examples, report = run(tmp_path, records(TOAST, content))
        assert len(examples) == 1
        assert report.rejected == {reason: 1}
        assert report.first_rejection == {reason: "a.jsonl:2"}

    def test_the_first_rejections_are_kept_and_all_are_counted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(corpus_module, "MAX_KEPT_REJECTIONS", 2)
        rows = [Rejection("a.jsonl", number, "not UTF-8") for number in range(1, 6)]
        _, report = run(tmp_path, [*rows, *records(TOAST)])
        assert report.rejected == {"not UTF-8": 5}
        kept = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
        assert kept == [{"file": "a.jsonl", "line": number, "reason": "not UTF-8"} for number in (1, 2)]

    def test_too_large_a_share_is_one_line_with_the_reasons(self, tmp_path: Path) -> None:
        rejections = [Rejection("a.jsonl", 7, "not UTF-8"), Rejection("a.jsonl", 8, "not UTF-8")]
        _, report = run(tmp_path, [*records(TOAST, Recipe("", (), ())), *rejections])
        assert report.rejected_fraction == 0.75
        report.check(0.75)
        with pytest.raises(DataError) as error:
            report.check(0.7)
        message = str(error.value)
        assert "3 of 4 records were rejected, more than data.max_rejected_fraction=0.7" in message
        assert "not UTF-8 (2, first a.jsonl:7), no title (1, first a.jsonl:2)" in message
        assert "\n" not in message

    def test_blank_lines_are_counted_but_no_records(self, tmp_path: Path) -> None:
        _, report = run(tmp_path, [Rejection("a.jsonl", 1, BLANK_LINE), *records(TOAST)])
        assert (report.num_blank_lines, report.num_records, report.rejected_fraction) == (1, 1, 0.0)

    def test_a_corpus_without_any_example_is_refused(self, tmp_path: Path) -> None:
        _, report = run(tmp_path, records(Recipe("a", ("b",), ("c",), quality_score=0.1)), min_quality_score=0.5)
        with pytest.raises(DataError, match=r"no usable record \(1 records, 0 rejected, 1 of low quality\)"):
            report.check(1.0)


def test_low_scores_are_left_out_and_missing_ones_kept(tmp_path: Path) -> None:
    scores = (0.2, 0.5, None)
    contents = [Recipe(f"Toast {score}", ("bread",), ("Do.",), quality_score=score) for score in scores]
    examples, report = run(tmp_path, records(*contents, Pair("a", "b", 0.1)), min_quality_score=0.5)
    assert [example.title for _, example in examples] == ["Toast 0.5", "Toast None"]
    assert report.num_low_quality == 2


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
def test_what_is_longer_than_any_recipe_is_rejected(tmp_path: Path, content: Recipe | Pair, reason: str) -> None:
    """Tokenizing a word of 50,000 characters took minutes."""
    examples, report = run(tmp_path, records(content, Recipe("Soup", ("water",), ("Boil. " * 1000,))))
    assert len(examples) == 1
    assert report.rejected == {reason: 1}


def test_exact_duplicates_are_dropped_and_the_first_one_kept(tmp_path: Path) -> None:
    same = Recipe("TOAST!", ("bread",), ("Something else.",))
    other = Recipe("Toast", ("bread", "butter"), ("Toast it.",))
    pairs = (Pair("a", "b"), Pair("a", "b "), Pair("c", "b"))
    examples, report = run(tmp_path, records(TOAST, same, other, *pairs))
    assert [example.target_text.splitlines()[-1] for _, example in examples] == [
        "1. Toast it.",
        "1. Toast it.",
        "b",
        "b",
    ]
    assert report.num_duplicates == 2
    assert report.num_records == 6


def test_max_examples_counts_what_is_used_and_stops_reading(tmp_path: Path) -> None:
    def rows() -> Iterable[Row]:
        yield from records(Recipe("", (), ()), TOAST, TOAST, Recipe("Tea", ("tea",), ("Pour.",)))
        raise AssertionError("read on")

    examples, report = run(tmp_path, rows(), max_examples=2)
    assert [example.title for _, example in examples] == ["Toast", "Tea"]
    assert (report.num_duplicates, report.num_rejected) == (1, 1)


def test_the_keys_of_duplicates_are_gone_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "a name? with 100%20 #marks"
    folder.mkdir()
    run(folder, records(TOAST, TOAST))
    assert [path.name for path in folder.iterdir()] == ["rejects.jsonl"]
    assert list(tmp_path.iterdir()) == [folder]


FRACTIONS = st.floats(0.0, 0.49)
TITLES = st.text(min_size=1, max_size=20)


class TestSplit:
    @given(title=TITLES, validation=FRACTIONS, test=FRACTIONS, more_validation=FRACTIONS, more_test=FRACTIONS)
    def test_a_growing_fraction_only_takes_from_training(
        self, title: str, validation: float, test: float, more_validation: float, more_test: float
    ) -> None:
        before = split_of(title, min(validation, more_validation), min(test, more_test))
        after = split_of(title, max(validation, more_validation), max(test, more_test))
        assert after == before or before == "train"

    @given(title=TITLES)
    def test_nothing_is_held_out_at_zero(self, title: str) -> None:
        assert split_of(title, 0.0, 0.0) == "train"

    def test_spellings_of_one_title_stay_together(self) -> None:
        assert all(
            split_of(f"Apple Pie {number}", 0.3, 0.3) == split_of(f" apple   PIE, {number}!", 0.3, 0.3)
            for number in range(200)
        )

    def test_the_shares_are_those_asked_for(self) -> None:
        counts = Counter(split_of(f"recipe {number}", 0.1, 0.2) for number in range(10_000))
        assert counts["validation"] == pytest.approx(1000, abs=120)
        assert counts["test"] == pytest.approx(2000, abs=160)

    def test_the_side_of_a_title_is_fixed_for_ever(self) -> None:
        sides = [
            split_of(title, 0.3, 0.3) for title in ("Apple Pie", "Leek Soup", "Toast", "Crème brûlée", "味噌汁", "!")
        ]
        assert sides == ["test", "test", "train", "train", "validation", "validation"]

    def test_fractions_that_leave_no_training_are_refused(self) -> None:
        with pytest.raises(DataError, match="less than 1"):
            split_of("Toast", 0.5, 0.5)

    @settings(deadline=None, max_examples=50)
    @given(data=st.data())
    def test_no_file_added_removed_or_moved_moves_a_recipe(
        self, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        titles = data.draw(st.lists(st.sampled_from([f"Dish {number}" for number in range(60)]), min_size=1))
        contents: list[Recipe | Pair] = [Recipe(title, ("bread",), ("Toast it.",)) for title in titles]
        contents += [Pair(f"{title}?", f"**{title}**\n\n- bread\n\n1. Toast it.") for title in titles]
        kept = data.draw(st.lists(st.sampled_from(contents), min_size=1))
        folder = tmp_path_factory.mktemp("splits", numbered=True)
        sides = [
            {example.title: split for split, example in run(folder, records(*part), validation_fraction=0.3)[0]}
            for part in (contents, kept)
        ]
        assert sides[1].items() <= sides[0].items()

    def test_a_pair_stands_on_the_side_of_its_recipe(self, tmp_path: Path) -> None:
        for number in range(30):
            recipe = Recipe(f"Toast {number}", ("bread",), ("Do.",))
            pair = Pair(f"prompt {number}", f"# toast {number}\n\n## Ingredients\n- bread\n\n## Method\n1. Do.")
            examples, _ = run(tmp_path, records(recipe, pair), validation_fraction=0.4, test_fraction=0.4)
            assert examples[0][0] == examples[1][0]

    def test_a_pair_without_a_title_is_split_by_its_prompt(self, tmp_path: Path) -> None:
        ((split, example),), _ = run(tmp_path, records(Pair("What is hot?", "Soup is.")), validation_fraction=0.5)
        assert example.title == "What is hot?"
        assert split == split_of("What is hot?", 0.5, 0.02)


def test_a_report_survives_json(tmp_path: Path) -> None:
    _, report = run(tmp_path, records(TOAST, TOAST, Recipe("", (), ())))
    assert msgspec.json.decode(msgspec.json.encode(report), type=CorpusReport) == report


def test_equal_rows_become_the_examples_of_this_corpus_version(tmp_path: Path) -> None:
    """Caches are found by `CORPUS_VERSION`: if this digest has to change, the version has to rise with it."""
    rows = records(
        Recipe(
            "Cr&egrave;me br&ucirc;l&eacute;e",
            ("1½ cups cream", "• 4 eggs", "caf\u0065\u0301"),
            ("1. Mix.", "2. Bake."),
        ),
        Recipe("TEA", ("1 bag",), ("Don\u2019t boil\u00a0it.",)),
        Pair("Toast?", "**Toast**\n\n- ½ bread\n\n1. Toast\tit."),
    )
    examples, _ = run(tmp_path, rows)
    digest = hashlib.sha256(msgspec.json.encode([asdict(example) for _, example in examples])).hexdigest()
    assert (CORPUS_VERSION, digest[:16]) == (2, "af26ad65e847cca1")
