"""Every format as users meet it: a file or folder in, examples and `rejects.jsonl` out."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from recipe_exp.config.data import FILE_FORMATS, FORMAT_NAMES, DataConfig
from recipe_exp.data.contents import open_contents
from recipe_exp.data.example import Example
from recipe_exp.data.preparation.corpus_report import CorpusReport
from recipe_exp.data.preparation.intake import Accepted, Intake, LeftOut
from recipe_exp.data.preparation.intake_stage import IntakeCounts
from recipe_exp.data.prompts import example_of, find_template
from recipe_exp.data.readers.registry import choose_format, find_format, suffixes_of
from recipe_exp.data.sample import sample_recipes
from recipe_exp.data.tokens.cache import build_or_open_cache
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.data.tokens.vocabulary import train_unigram
from recipe_exp.errors import DataError
from recipe_exp.recipes.markdown import parse_recipe
from recipe_exp.recipes.recipe import Recipe

FORMATS = Path(__file__).parent / "formats"
NEITHER = "neither title, ingredients and instructions nor input and output"

EXPECTED: dict[str, tuple[str, list[Recipe], list[tuple[int, str]]]] = {
    "mixed.jsonl": (
        "jsonl",
        [
            Recipe(
                "Leek Soup",
                ("3 leeks", "1 l water", "1/2 tsp salt"),
                ("Slice the leeks.", "Simmer them for 20 minutes."),
            ),
            Recipe("Toast", ("2 slices bread",), ("Toast the bread.",)),
            Recipe("Barley Tea", ("30 g barley", "1 l water"), ("Roast the barley.", "Boil it in the water.")),
            Recipe("Mint Water", ("1 sprig mint", "1 l water"), ("Steep the mint.",)),
        ],
        [(6, "not valid JSON")],
    ),
    "list.json": (
        "json",
        [
            Recipe(
                "Plain Scones",
                ("225 g flour", "50 g butter", "150 ml milk"),
                ("Rub the butter into the flour.", "Bake at 180°C for 15 minutes."),
            ),
            Recipe("Fruit Salad", ("1 apple", "2 pears"), ("Cut the fruit.", "Mix it.")),
        ],
        [(3, "no instructions"), (5, "not a JSON object"), (8, NEITHER)],
    ),
    "by_id.json": (
        "json",
        [
            Recipe("Potato Cakes", ("4 potatoes", "1 egg"), ("Grate the potatoes.", "Fry spoonfuls until brown.")),
            Recipe("Egg on Toast", ("1 egg", "1 slice bread"), ("Fry the egg and lay it on the toasted bread.",)),
        ],
        [(1, NEITHER)],
    ),
    "graph.jsonld": (
        "json",
        [
            Recipe(
                "Lentil Stew & Rice",
                ("200 g lentils", "1 1/2 cups rice"),
                ("Boil the lentils.", "Season them.", "Steam the rice."),
            ),
            Recipe(
                "Onion Jam",
                ("4 onions, sliced", "100 g sugar", "1 tbsp vinegar (red, if possible)"),
                ("Soften the onions.", "Add the sugar & boil."),
            ),
        ],
        [(1, "no ingredients")],
    ),
    "nodes.jsonld": (
        "json",
        [
            Recipe(
                "Rye Crackers",
                ("200 g rye flour", "2 tbsp oil", "1 tsp salt"),
                ("Roll the dough out.", "Bake it.", "Break it."),
            )
        ],
        [],
    ),
    "scraped.json": (
        "json",
        [Recipe("Carrot Mash", ("500 g carrots", "20 g butter"), ("Boil the carrots.", "Mash them with the butter."))],
        [],
    ),
    "single.json": (
        "json",
        [Recipe("Berry Fool", ("300 ml cream", "1 cup berries"), ("Whip the cream.", "Fold in the berries."))],
        [],
    ),
    "page.html": (
        "html",
        [Recipe("Porridge", ("50 g oats", "250 ml milk"), ("Boil the oats in the milk.", "Stir all the time."))],
        [],
    ),
    "lists.csv": (
        "csv",
        [
            Recipe(
                "Corn Bread",
                ("1 c. cornmeal", "1 c. milk", "2 eggs"),
                ("Mix all.", "Bake at 350° for 25 minutes."),
            ),
            Recipe("Grandma'S Relish", ("4 c. cucumbers",), ("Chop.", "Pickle.")),
        ],
        [(4, "other number of cells than columns"), (5, "no instructions")],
    ),
    "r_vectors.csv": (
        "csv",
        [
            Recipe("Bean Dip", ("beans", 'garlic "fresh"'), ("Mash the beans.", "Stir in the garlic.")),
            Recipe("Iced Tea", ("tea bags",), ("Steep the tea.", "Chill it.")),
        ],
        [(4, "no ingredients")],
    ),
    "python_lists.csv": (
        "csv",
        [
            Recipe("pumpkin soup", ("pumpkin", "onion", "stock"), ("roast the pumpkin", "don't peel it", "blend")),
            Recipe("printed by numpy", ("melon", "ham"), ("cut", "serve")),
        ],
        [],
    ),
    "tabs.tsv": (
        "csv",
        [Recipe("Apple Tea", ("1 apple", "1 l water"), ("Slice the apple and boil it in the water.",))],
        [],
    ),
    "hugo.md": (
        "markdown",
        [
            Recipe(
                "Crème fraîche Dip",
                ("Base", "200 g crème fraîche", "1 clove garlic, crushed", "Bread"),
                ("Mix the crème fraîche with the garlic.", "Chill it. It keeps for two days."),
            )
        ],
        [],
    ),
    "taco.md": (
        "markdown",
        [
            Recipe(
                "Quick Salsa",
                ("4 tomatoes", "1 onion, diced"),
                ("Chop everything and mix it in a bowl.", "Leave it to rest for ten minutes."),
            )
        ],
        [],
    ),
    "front_matter_only.md": (
        "markdown",
        [Recipe("Oat Bars", ("200 g oats", "100 g honey"), ("Mix.", "Bake for 20 minutes."))],
        [],
    ),
    "Plum Crumble.cook": (
        "cooklang",
        [
            Recipe(
                "Plum Crumble",
                ("500 g plums", "75 g butter, cold", "150 g flour", "salt", "cream"),
                (
                    "Halve the plums and put them into a baking dish.",
                    "Rub the butter into the flour, add salt, and spread it over the plums. flour tastes of little.",
                    "Bake for 40 minutes at 180 °C. Serve with cream.",
                ),
            )
        ],
        [],
    ),
    "cards.mmf": (
        "mealmaster",
        [
            Recipe(
                "Beet Salad",
                (
                    "4 Beets, cooked; peeled and diced",
                    "1 small Onion",
                    "1 tbsp Vinegar",
                    "1 1/2 tsp Sugar",
                    "1/2 cup Cream",
                ),
                ("Mix beets and onion with vinegar and sugar.", "Pour the cream over it.", "Serve cold."),
            ),
            Recipe("Boiled Egg", ("1 Egg",), ("Boil the egg for 6 minutes.",)),
        ],
        [],
    ),
    "cards.mx2": (
        "mastercook",
        [
            Recipe(
                "Crêpes & Jam",
                ("125 grams flour, sifted", "250 ml milk, or half milk and half water", "2 eggs"),
                ("Whisk everything.", "Fry thin crêpes."),
            )
        ],
        [(31, "no ingredients")],
    ),
    "cards.mxp": (
        "mastercook",
        [
            Recipe(
                "Honey Milk",
                ("1/4 liter milk", "1 tablespoon honey, runny", "salt"),
                ("Warm the milk. Stir in the honey.", "Drink it hot."),
            )
        ],
        [],
    ),
}


@pytest.fixture(scope="module")
def tokenizer() -> RecipeTokenizer:
    texts = (text for recipe in islice(sample_recipes(), 60) for text in (recipe.title, *recipe.ingredients))
    return RecipeTokenizer.from_tokenizer(train_unigram(texts, 500))


def config_of(path: Path, **settings: Any) -> DataConfig:
    usual = {"validation_fraction": 0.0, "test_fraction": 0.0, "max_rejected_fraction": 1.0}
    return DataConfig.model_validate({"path": str(path), **usual, **settings})


def read(path: Path, folder: Path, **settings: Any) -> tuple[list[Example], CorpusReport]:
    """What becomes of a file, without a look for duplicates."""
    config = config_of(path, **settings)
    outcomes = Intake(config).take(open_contents(config, folder).rows())
    template, counts = find_template(config.prompt), IntakeCounts()
    for outcome in outcomes:
        if isinstance(outcome, LeftOut):
            counts.add(outcome)
    examples = [example_of(one.record.content, template) for one in outcomes if isinstance(one, Accepted)]
    return examples, counts.report({"train": len(examples), "validation": 0, "test": 0})


def rejects_in(folder: Path) -> list[tuple[int, str]]:
    entries = [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]
    return [(entry["line"], entry["reason"]) for entry in entries]


def test_every_fixture_is_expected() -> None:
    assert {path.name for path in FORMATS.iterdir()} == {*EXPECTED, "notes.txt"}
    assert {name for name, _, _ in EXPECTED.values()} == set(FILE_FORMATS) - {"parquet"}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_becomes_a_cache(tmp_path: Path, tokenizer: RecipeTokenizer, name: str, packed: bool) -> None:
    file = tmp_path / (name + ".gz" * packed)
    content = (FORMATS / name).read_bytes()
    file.write_bytes(gzip.compress(content) if packed else content)
    expected_format, recipes, rejects = EXPECTED[name]
    known = choose_format(file)
    assert known is not None
    assert known.name == expected_format
    for chosen in ("auto", expected_format):
        config = config_of(file, format=chosen)
        cache = build_or_open_cache(config, cache_dir=tmp_path / chosen, tokenizer=tokenizer, num_workers=1)
        assert [parse_recipe(example.target_text) for example in cache.examples("train")] == recipes
        assert rejects_in(cache.prepared.folder) == rejects
        listed = (cache.prepared.folder / "rejects.jsonl").read_text().splitlines()
        assert all(entry["file"] == str(file) for entry in map(json.loads, listed))


@pytest.mark.parametrize("name", [name for name in EXPECTED if not name.endswith((".cook", ".mmf"))])
def test_the_name_of_a_file_may_say_nothing(tmp_path: Path, name: str) -> None:
    shutil.copy(FORMATS / name, tmp_path / "recipes")
    assert getattr(choose_format(tmp_path / "recipes"), "name", None) == EXPECTED[name][0]


def test_parquet_becomes_examples(tmp_path: Path) -> None:
    file = tmp_path / "recipes.parquet"
    table = pyarrow.table({"title": ["Tea"], "ingredients": [["1 bag"]], "directions": [["1. Pour.", "2. Drink."]]})
    parquet.write_table(table, file)
    for name in ("auto", "parquet"):
        examples, _ = read(file, tmp_path, format=name)
        assert [parse_recipe(example.target_text) for example in examples] == [
            Recipe("Tea", ("1 bag",), ("Pour.", "Drink."))
        ]


def test_a_folder_of_every_format_is_read_as_one(tmp_path: Path) -> None:
    examples, report = read(FORMATS, tmp_path)
    assert sorted(example.title for example in examples) == sorted(
        recipe.title for _, recipes, _ in EXPECTED.values() for recipe in recipes
    )
    assert report.rejected["in no known format of recipes"] == 1
    assert report.first_rejection["in no known format of recipes"] == f"{FORMATS / 'notes.txt'}:1"
    assert report.num_rejected == 1 + sum(len(rejects) for _, _, rejects in EXPECTED.values())


def test_a_named_format_reads_its_own_files_of_a_folder_only(tmp_path: Path) -> None:
    examples, report = read(FORMATS, tmp_path, format="markdown")
    assert len(examples) == 3
    assert report.num_rejected == 0


def test_a_glob_reads_what_it_names(tmp_path: Path) -> None:
    assert len(read(FORMATS / "*.csv", tmp_path)[0]) == 6


def test_a_file_in_no_known_format_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"notes\.txt: in no known format of recipes; if you know it, name it") as error:
        read(FORMATS / "notes.txt", tmp_path)
    assert "\n" not in str(error.value)


def test_every_format_can_be_found_by_its_name() -> None:
    for name in (*FILE_FORMATS, "huggingface"):
        assert find_format(name).name == name
    assert {*FILE_FORMATS, "huggingface", "auto", "sample", "prepared"} == set(FORMAT_NAMES)
    assert {".jsonl", ".json.gz", ".csv", ".txt", ".md"} <= set(suffixes_of(None) or ())
    assert suffixes_of(find_format("cooklang")) == (".cook", ".cook.gz")


class TestFingerprint:
    def fingerprint(self, path: Path, folder: Path, name: str = "auto") -> str:
        return open_contents(config_of(path, format=name), folder).fingerprint

    def test_what_is_read_decides_not_how_it_was_found(self, tmp_path: Path) -> None:
        for name in ("mixed.jsonl", "list.json", "lists.csv"):
            shutil.copy(FORMATS / name, tmp_path / f"other-{name}")
            known = EXPECTED[name][0]
            assert (
                self.fingerprint(FORMATS / name, tmp_path)
                == self.fingerprint(tmp_path / f"other-{name}", tmp_path)
                == self.fingerprint(FORMATS / name, tmp_path, known)
            )

    def test_the_same_bytes_in_another_format_are_other_data(self, tmp_path: Path) -> None:
        file = FORMATS / "single.json"
        assert self.fingerprint(file, tmp_path, "json") != self.fingerprint(file, tmp_path, "jsonl")

    def test_a_name_counts_where_it_may_be_the_title(self, tmp_path: Path) -> None:
        shutil.copy(FORMATS / "Plum Crumble.cook", tmp_path / "Plum Pie.cook")
        first = self.fingerprint(FORMATS / "Plum Crumble.cook", tmp_path)
        assert self.fingerprint(tmp_path / "Plum Pie.cook", tmp_path) != first


LEEKS = b'{"title": "Leek Soup", "ingredients": ["3 leeks"], "instructions": ["Simmer."]}'
SMALL = {
    "jsonl": LEEKS + b"\n" + LEEKS + b"\n",
    "json": b"[" + LEEKS + b",\n" + LEEKS + b"]",
    "csv": b'title,ingredients,directions\nLeek Soup,"[""3 leeks""]",Simmer.\n',
    "html": b'<!doctype html><script type="application/ld+json">{"@type": "Recipe", "name": "Leek Soup", '
    b'"recipeIngredient": ["3 leeks"], "recipeInstructions": "Simmer."}</script>',
    "markdown": b"# Leek Soup\n\n## Ingredients\n- 3 leeks\n\n## Method\nSimmer.\n",
    "cooklang": b">> title: Leek Soup\nSimmer @leeks{3}.\n",
    "mealmaster": b"MMMMM----- Recipe via Meal-Master (tm) v8.02\n\n      Title: Leek Soup\n\n      3    Leeks\n\n"
    b"  Simmer.\n\nMMMMM\n",
    "mastercook": b'<mx2><RcpE name="Leek Soup"><IngR name="leeks" qty="3"/><DirT>Simmer.</DirT></RcpE></mx2>',
}
DEEP = 100_000
INSTEAD = {
    "empty": b"",
    "blank": b"\n \r\n\t\n",
    "git lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "zeros": b"\0" * 5000,
    "deep list": b"[" * DEEP + b"]" * DEEP,
    "deep unclosed": b'{"a":' * DEEP,
    "deep in a record": LEEKS[:-1] + b', "x": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep elements": b"<mx2>" + b"<a>" * DEEP,
    "duplicate keys": b'{"title": "a", "title": "b", "ingredients": "c", "instructions": "d"}',
    "nan": b'{"title": "a", "quality_score": NaN, "ingredients": "c", "instructions": "d"}',
    "wrong types": b'[{"title": 3, "ingredients": {"a": [1]}, "instructions": true}]',
    "a list": b'[1, "a", null, [[]], {}]',
}
CHANGED: dict[str, Callable[[bytes], bytes]] = {
    "utf-16": lambda good: good.decode().encode("utf-16"),
    "latin-1": lambda good: good.replace(b"Soup", b"Cr\xe8me"),
    "nul": lambda good: good.replace(b"Soup", b"So\0up"),
    "long line": lambda good: good.replace(b"Simmer", b"x" * 50_000_000),
    "truncated gzip": lambda good: gzip.compress(good * 50)[:-12],
    "broken gzip": lambda good: gzip.compress(good)[:12] + b"\xff" * 9,
    "cut": lambda good: good[: len(good) // 2],
    "quotes": lambda good: good + b'"' * 300_000,
    "backslashes": lambda good: good + b"\\" * 300_001,
    "markup": lambda good: good + b"[<*_`" * 30_000,
}
# Good records that a damage leaves, which are read whatever stands beside them.
LEFT = {
    "nul": {"json": 2, "html": 1},
    "cut": {"jsonl": 1, "json": 1},
    **{
        after: {"jsonl": 2, "json": 2, "csv": 1, "html": 1, "mealmaster": 1, "mastercook": 1}
        for after in ("quotes", "backslashes", "markup")
    },
}


@pytest.mark.parametrize("damage", [*INSTEAD, *CHANGED])
@pytest.mark.parametrize("name", SMALL)
def test_nothing_in_a_file_causes_more_than_one_line(tmp_path: Path, name: str, damage: str) -> None:
    file = tmp_path / f"recipes{find_format(name).suffixes[0]}"
    file.write_bytes(INSTEAD[damage] if damage in INSTEAD else CHANGED[damage](SMALL[name]))
    for chosen in ("auto", name):
        line = None
        try:
            examples, report = read(file, tmp_path, format=chosen)
        except DataError as error:
            line = str(error)
        if name in LEFT.get(damage, {}):
            assert line is None
            assert [example.title for example in examples[: LEFT[damage][name]]] == ["Leek Soup"] * LEFT[damage][name]
        if line is None:
            assert len(examples) + report.num_rejected + report.num_duplicates == report.num_records
            assert report.num_records or report.num_blank_lines, "what is in the file is accounted for"
            assert all(len(reason) < 100 for reason in report.rejected)
        else:
            assert str(file) in line
            assert "\n" not in line
            assert len(line) < 1000


@pytest.mark.parametrize("name", SMALL)
def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path: Path, name: str) -> None:
    titles = []
    for mark in (b"", b"\xef\xbb\xbf"):
        file = tmp_path / f"recipes{find_format(name).suffixes[0]}"
        file.write_bytes(mark + SMALL[name])
        titles.append(
            [example.title for chosen in ("auto", name) for example in read(file, tmp_path, format=chosen)[0]]
        )
    assert titles[0] == titles[1]
    assert {*titles[0]} == {"Leek Soup"}


def test_line_ends_of_windows_are_no_part_of_the_data(tmp_path: Path) -> None:
    for name, content in SMALL.items():
        file = tmp_path / f"recipes{find_format(name).suffixes[0]}"
        file.write_bytes(content.replace(b"\n", b"\r\n"))
        ((example, *_), _) = read(file, tmp_path)
        assert [part.split(", ")[0].lower() for part in parse_recipe(example.target_text).ingredients] == ["3 leeks"]
