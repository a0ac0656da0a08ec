from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.config.data import DataConfig
from recipe_exp.data import in_order
from recipe_exp.data.duplicates.shingles import jaccard
from recipe_exp.data.preparation import intake_stage
from recipe_exp.data.preparation.pipeline import CORPUS_VERSION
from recipe_exp.data.preparation.prepared import PreparedData
from recipe_exp.data.sample import sample_recipes
from recipe_exp.data.split import SPLITS, split_of
from recipe_exp.data.tokens.cache import open_or_prepare
from recipe_exp.errors import DataError
from recipe_exp.recipes.quality import quality_checks
from recipe_exp.recipes.recipe import Recipe

FRACTIONS = {"validation_fraction": 0.25, "test_fraction": 0.15}
USUAL = {"format": "jsonl", "max_rejected_fraction": 1.0, **FRACTIONS}
NUM_WORDS = 90


def words(seed: int, count: int = NUM_WORDS) -> list[str]:
    dice = random.Random(seed)
    return ["".join(dice.choices("abcdefghijklmnop", k=6)) for _ in range(count)]


def line_of(recipe: Recipe, **more: object) -> str:
    return json.dumps(
        {"title": recipe.title, "ingredients": recipe.ingredients, "instructions": recipe.instructions, **more}
    )


def prepare_lines(folder: Path, lines: list[str], num_workers: int = 1, **changes: Any) -> PreparedData:
    file = folder / "recipes.jsonl"
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    config = DataConfig.model_validate({**USUAL, "path": str(file), **changes})
    return open_or_prepare(config, cache_dir=folder / "cache", num_workers=num_workers)


def titles_in(prepared: PreparedData) -> list[str]:
    return [record.title for split in SPLITS for record in prepared.records(split)]


def rejects_in(prepared: PreparedData) -> dict[int, str]:
    """The reason of every line that is left out, by its number; each stands there once."""
    entries = [json.loads(line) for line in (prepared.folder / "rejects.jsonl").read_text().splitlines()]
    assert len({entry["line"] for entry in entries}) == len(entries)
    return {entry["line"]: entry["reason"] for entry in entries}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@dataclass(frozen=True)
class Copy:
    """A recipe that has nearly the text of all with the same `family`, under a title and with a score of its own."""

    family: int
    title: int
    score: float | None

    @property
    def recipe(self) -> Recipe:
        text = words(self.family)
        return Recipe(f"Dish {self.family} {self.title}", (" ".join(text[:20]),), (" ".join(text[20:]) + ".",))

    @property
    def quality(self) -> float:
        return quality_checks(self.recipe).score if self.score is None else self.score

    @property
    def split(self) -> str:
        return split_of(self.recipe.title, *FRACTIONS.values())


COPIES = st.builds(Copy, st.integers(0, 3), st.integers(0, 9), st.sampled_from([None, 0.25, 0.75]))
ROWS = st.lists(COPIES | st.sampled_from(["", '{"title": 3}', '{"title": "Tea"}']), min_size=1, max_size=14)


def test_copies_are_what_their_name_says() -> None:
    first, second, other = (copy.recipe for copy in (Copy(0, 1, None), Copy(0, 2, None), Copy(1, 1, None)))
    texts = ["\n".join((one.title, *one.ingredients, *one.instructions)) for one in (first, second, other)]
    assert jaccard(texts[0], texts[1]) > 0.9
    assert jaccard(texts[0], texts[2]) == 0
    assert {Copy(0, title, None).split for title in range(10)} == {*SPLITS}


@pytest.mark.parametrize("duplicates", ["drop", "keep", "report"])
@settings(deadline=None, max_examples=60)
@given(rows=ROWS)
def test_every_row_has_one_fate_and_training_keeps_nothing_near_a_held_out_recipe(
    duplicates: str, rows: list[Copy | str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("corpus", numbered=True)
    copies = {number: row for number, row in enumerate(rows, start=1) if isinstance(row, Copy)}
    anchor = line_of(Recipe("Bread", (" ".join(words(99)),), ("Bake.",)), source="anchor")
    lines = [
        row if isinstance(row, str) else line_of(row.recipe, source=str(number), quality_score=row.score)
        for number, row in enumerate(rows, start=1)
    ]
    prepared = prepare_lines(folder, [*lines, anchor], duplicates=duplicates)

    families = defaultdict(list)
    for number, copy in copies.items():
        families[copy.family].append(number)
    expected: dict[str, list[int]] = {split: [] for split in SPLITS}
    leaks, near = set(), set()
    for numbers in families.values():
        held_out = [number for number in numbers if copies[number].split != "train"]
        candidates = held_out or numbers
        best = max(candidates, key=lambda number: (copies[number].quality, -number))
        leaks |= {number for number in numbers if held_out and number not in held_out}
        kept = [best] if duplicates == "drop" else candidates
        near |= {*candidates} - {*kept}
        for number in kept:
            expected[copies[number].split].append(number)

    found = {
        split: [int(record.source or 0) for record in prepared.records(split) if record.source != "anchor"]
        for split in SPLITS
    }
    assert found == {split: sorted(numbers) for split, numbers in expected.items()}
    rejects = rejects_in(prepared)
    blank = {number for number, row in enumerate(rows, start=1) if row == ""}
    broken = {number for number, row in enumerate(rows, start=1) if isinstance(row, str) and row}
    assert {*rejects} == broken | leaks | near
    file = folder / "recipes.jsonl"
    for number in near | leaks:
        kind = "near the held-out recipe" if number in leaks else "near the better recipe"
        other = int(rejects[number].removeprefix(f"{kind} of {file}:"))
        assert other in {number for numbers in found.values() for number in numbers} or duplicates != "drop"
        assert copies[other].family == copies[number].family

    report = prepared.report
    assert (report.num_leaks, report.num_duplicates) == (len(leaks), len(near))
    assert (report.num_rejected, report.num_blank_lines) == (len(broken), len(blank))
    assert report.num_records + report.num_blank_lines == len(rows) + 1
    crowded = [numbers for numbers in families.values() if len(numbers) > 1]
    assert (report.num_clusters, report.num_in_clusters) == (len(crowded), sum(map(len, crowded)))


def test_records_of_one_cluster_say_so(tmp_path: Path) -> None:
    copies = [Copy(family, title, None) for title in range(4) for family in range(3)]
    lines = [line_of(copy.recipe, source=str(copy.family)) for copy in copies]
    prepared = prepare_lines(tmp_path, lines, duplicates="keep", validation_fraction=0.0, test_fraction=0.0)
    clusters = defaultdict(set)
    for record in prepared.records("train"):
        clusters[record.source].add(record.cluster)
    assert clusters == {"0": {0}, "1": {1}, "2": {2}}


def test_equal_titles_with_equal_ingredients_are_duplicates_whatever_the_steps(tmp_path: Path) -> None:
    steps = [" ".join(words(seed)) + "." for seed in range(3)]
    recipes = [
        Recipe("Toast", ("bread",), (steps[0],)),
        Recipe("TOAST!", ("bread",), (steps[1],)),
        Recipe("Toast", ("bread", "butter"), (steps[2],)),
    ]
    pairs = [{"input": "a", "output": words(7)[0]}, {"input": "a", "output": f"{words(7)[0]} "}]
    lines = [*map(line_of, recipes), *map(json.dumps, pairs)]
    prepared = prepare_lines(tmp_path, lines, validation_fraction=0.0, test_fraction=0.0)
    assert [*rejects_in(prepared)] == [2, 5]
    assert prepared.report.num_duplicates == 2
    assert [record.output for record in prepared.records("train")] == [None, None, words(7)[0]]


def test_max_examples_counts_records_before_duplicates_are_looked_for(tmp_path: Path) -> None:
    lines = ["{", line_of(Copy(0, 1, None).recipe), line_of(Copy(0, 1, None).recipe), line_of(Copy(1, 1, None).recipe)]
    prepared = prepare_lines(tmp_path, [*lines, "{", line_of(Copy(2, 1, None).recipe)], max_examples=3)
    assert sorted(titles_in(prepared)) == [Copy(0, 1, None).recipe.title, Copy(1, 1, None).recipe.title]
    report = prepared.report
    assert (report.num_duplicates, report.num_rejected, report.num_records) == (1, 1, 4), "nothing after is looked at"


def test_everything_that_is_left_out_is_listed_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipe_exp.data.preparation.intake.LanguageFilter", lambda _: OnlyWithoutUmlauts())
    lines = [
        "{",
        "",
        line_of(Copy(0, 1, 0.9).recipe, quality_score=0.9),
        line_of(Copy(0, 2, 0.8).recipe, quality_score=0.8),
        line_of(Copy(1, 1, 0.1).recipe, quality_score=0.1),
        line_of(Recipe("Brühe", ("Wasser",), ("Brühe kochen.",)), quality_score=0.9),
    ]
    prepared = prepare_lines(
        tmp_path, lines, language="de", min_quality_score=0.5, validation_fraction=0.0, test_fraction=0.0
    )
    rejects = rejects_in(prepared)
    assert [*rejects] == [1, 5, 6, 4]
    assert rejects[4] == f"near the better recipe of {tmp_path / 'recipes.jsonl'}:3"
    assert rejects[5] == "quality below data.min_quality_score=0.5"
    assert rejects[6] == "not in data.language=de"
    report = prepared.report
    assert (report.num_low_quality, report.num_other_language, report.num_duplicates) == (1, 1, 1)


class OnlyWithoutUmlauts:
    """Stands in for a library that need not be installed."""

    def accepts(self, text: str) -> bool:
        return "ü" not in text


def test_the_list_of_rejects_is_whole(tmp_path: Path) -> None:
    prepared = prepare_lines(tmp_path, ["{"] * 12_000 + [line_of(Copy(0, 1, None).recipe)])
    assert [*rejects_in(prepared)] == [*range(1, 12_001)]


def test_the_most_similar_pairs_across_the_split_are_told(tmp_path: Path) -> None:
    held_out = next(f"Dish {n}" for n in range(100) if split_of(f"Dish {n}", *FRACTIONS.values()) == "test")
    training = next(f"Dish {n}" for n in range(100) if split_of(f"Dish {n}", *FRACTIONS.values()) == "train")
    text = words(5)
    recipes = [
        Recipe(held_out, (" ".join(text[:20]),), (" ".join(text[20:]),)),
        Recipe(training, (" ".join(text[:20]),), (" ".join([*text[20:75], *words(6, 15)]),)),
    ]
    texts = ["\n".join((one.title, *one.ingredients, *one.instructions)) for one in recipes]
    assert 0.5 < jaccard(*texts) < 0.8
    prepared = prepare_lines(tmp_path, [line_of(recipe) for recipe in recipes])
    assert len(titles_in(prepared)) == 2
    (pair,) = prepared.report.closest
    assert (pair.held_out, pair.training) == (held_out, training)
    assert pair.similarity == pytest.approx(jaccard(*texts), abs=1e-4)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_no_recipe_added_removed_or_moved_moves_another(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    titles = data.draw(st.lists(st.sampled_from([f"Dish {number}" for number in range(30)]), min_size=1))
    kept = data.draw(st.lists(st.sampled_from(titles), min_size=1))
    sides = []
    for part in (titles, kept):
        folder = tmp_path_factory.mktemp("splits", numbered=True)
        lines = [line_of(Recipe(title, (" ".join(words(int(title.split()[1]))),), ("Toast it.",))) for title in part]
        prepared = prepare_lines(folder, lines, duplicates="keep")
        sides.append({record.title: split for split in SPLITS for record in prepared.records(split)})
    assert all(sides[0].get(title, side) == side for title, side in sides[1].items())


def test_neither_processes_nor_chunks_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = list(islice(sample_recipes(), 150))
    lines = [line_of(recipe) for recipe in [*recipes, *recipes[:30]]]
    lines[40:40] = ["{", "", *(line_of(Copy(family, title, None).recipe) for title in range(5) for family in range(4))]
    monkeypatch.setattr(in_order, "_CHUNKS_BEFORE_PROCESSES", 1)
    found = []
    for chunk_rows, num_workers in ((512, 1), (7, 1), (1, 1), (20, 3)):
        monkeypatch.setattr(intake_stage, "_CHUNK_ROWS", chunk_rows)
        for limit in (None, 170):
            # Places are written as they were given, so the file stays where it is.
            prepared = prepare_lines(tmp_path, lines, num_workers, max_examples=limit, verify=True)
            found.append((limit, files_of(prepared.folder)))
            for file in prepared.folder.iterdir():
                file.unlink()
    assert Counter(limit for limit, _ in found) == {None: 4, 170: 4}
    for limit in (None, 170):
        first, *others = [files for found_limit, files in found if found_limit == limit]
        assert len(first["rejects.jsonl"].splitlines()) > 10
        assert all(files == first for files in others)


def test_equal_rows_become_the_splits_of_this_corpus_version(tmp_path: Path) -> None:
    """Prepared data is found by `CORPUS_VERSION`: if this digest has to change, the version has to rise with it."""
    lines = [
        line_of(
            Recipe(
                "Cr&egrave;me br&ucirc;l&eacute;e",
                ("1½ cups cream", "• 4 eggs", "caf\u0065\u0301"),
                ("1. Mix.", "2. Bake."),
            ),
            source="a book",
        ),
        line_of(Recipe("TEA", ("1 bag", "&#¼ lemon"), ("Don\u2019t boil\u00a0it.",)), quality_score=0.5),
        json.dumps({"input": "Toast?", "output": "**Toast**\n\n- ½ bread\n\n1. Toast\tit."}),
        line_of(Copy(0, 1, None).recipe),
        line_of(Copy(0, 2, None).recipe),
    ]
    prepared = prepare_lines(tmp_path, lines)
    digest = hashlib.sha256(b"".join(prepared.path(split).read_bytes() for split in SPLITS)).hexdigest()
    assert (CORPUS_VERSION, digest[:16]) == (4, "c852290803bb5a00")


def test_report_lists_the_clusters_and_keeps_them(tmp_path: Path) -> None:
    steps = ("Boil the water with the salt in a large pot.", "Cook the noodles in it until they are soft, then drain.")
    lines = [
        {"title": title, "ingredients": ["1 cup water", "200 g noodles"], "instructions": [*steps, *more]}
        for title, more in (("Noodles", ()), ("Noodles!", ()), ("Toast", ("Butter it and eat it while it is hot.",)))
    ]
    path = tmp_path / "recipes.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = DataConfig(path=str(path), duplicates="report", validation_fraction=0.0, test_fraction=0.0)
    prepared = open_or_prepare(config, cache_dir=tmp_path / "cache", num_workers=1)
    listed = [json.loads(line) for line in (prepared.folder / "duplicates.jsonl").read_text().splitlines()]
    assert listed == [{"cluster": 0, "file": str(path), "line": line, "split": "train"} for line in (1, 2)]
    assert prepared.report.num_examples["train"] == 3


def test_the_closest_pair_is_told_however_many_closer_ones_were_left_out(tmp_path: Path) -> None:
    titles = (f"Dish {number}" for number in range(1000))
    held_out_title = next(title for title in titles if split_of(title, 0.2, 0.0) == "validation")
    training_titles = [title for title in titles if split_of(title, 0.2, 0.0) == "train"][:13]
    words = [f"word{number}" for number in range(150)]

    def record(title: str, changed: Sequence[int], score: float) -> dict[str, Any]:
        text = [f"other{number}" if number in changed else word for number, word in enumerate(words)]
        return {"title": title, "ingredients": ["1 egg"], "instructions": [" ".join(text)], "quality_score": score}

    rows = [record(held_out_title, (), 1.0), record(training_titles[0], (20, 50, 80, 110, 140), 1.0)]
    rows += [record(title, (20, 50, 80, 110), 0.5) for title in training_titles[1:]]
    texts = ["\n".join([row["title"], *row["ingredients"], *row["instructions"]]) for row in rows]
    similarities = [jaccard(texts[0], text) for text in texts[1:]]
    assert max(similarities) < 0.8 < min(jaccard(texts[1], text) for text in texts[2:])
    assert similarities[0] < min(similarities[1:])
    path = tmp_path / "recipes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DataConfig(path=str(path), validation_fraction=0.2, test_fraction=0.0)
    report = open_or_prepare(config, cache_dir=tmp_path / "cache", num_workers=1).report
    assert report.num_duplicates == 12
    assert [(pair.held_out, pair.training) for pair in report.closest] == [(held_out_title, training_titles[0])]
    assert report.closest[0].similarity == round(similarities[0], 4)


def test_rows_without_a_record_are_not_read_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_stage, "MAX_ROWS_WITHOUT_RECORD", 600)
    bad, good = ["{"] * 5000, [line_of(Recipe("Soup", ("water",), ("Boil it.",)))]
    with pytest.raises(DataError, match=r"1024 of 1024 records were rejected.*; what follows them was not read; see"):
        prepare_lines(tmp_path, bad + good, max_rejected_fraction=0.5)
    assert not list(tmp_path.glob("cache/*.building"))
    # Who tolerates them, or has a record before them, has all of them read.
    assert titles_in(prepare_lines(tmp_path, bad + good)) == ["Soup"]
    with pytest.raises(DataError, match="5000 of 5001 records were rejected"):
        prepare_lines(tmp_path, good + bad, max_rejected_fraction=0.5)
