from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.config.data import DataConfig
from recipe_exp.data import contents
from recipe_exp.data.preparation.pipeline import Progress
from recipe_exp.data.preparation.prepared import PREPARED_FILES, PreparedData, decode_record, open_folder
from recipe_exp.data.readers.rows import Pair
from recipe_exp.data.sample import sample_recipes
from recipe_exp.data.split import SPLITS
from recipe_exp.data.tokens import cache as cache_module
from recipe_exp.data.tokens.cache import TokenCache, build_or_open_cache, open_or_prepare
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.data.tokens.vocabulary import train_unigram
from recipe_exp.errors import DataError

NUM_RECIPES = 40


@pytest.fixture(scope="module")
def tokenizer() -> RecipeTokenizer:
    texts = (text for recipe in islice(sample_recipes(), 60) for text in (recipe.title, *recipe.ingredients))
    return RecipeTokenizer.from_tokenizer(train_unigram(texts, 500))


@pytest.fixture
def made(tmp_path: Path) -> PreparedData:
    """What a preparation makes that also leaves something out."""
    file = tmp_path / "recipes.jsonl"
    recipes = [
        {"title": recipe.title, "ingredients": recipe.ingredients, "instructions": recipe.instructions}
        for recipe in islice(sample_recipes(), NUM_RECIPES)
    ]
    file.write_text("\n".join(map(json.dumps, [*recipes, recipes[0], {"title": "Toast"}])))
    config = DataConfig(path=str(file), validation_fraction=0.2, test_fraction=0.3)
    return open_or_prepare(config, cache_dir=tmp_path / "cache", num_workers=1)


@pytest.fixture
def folder(made: PreparedData, tmp_path: Path) -> Path:
    """A copy as it comes to another machine."""
    return Path(shutil.copytree(made.folder, tmp_path / "elsewhere" / "my recipes"))


def open_copy(folder: Path, **settings: Any) -> PreparedData:
    config = DataConfig(format="prepared", path=str(folder), **settings)
    return open_or_prepare(config, cache_dir=folder.parent / "cache", num_workers=1)


def edit(file: Path, old: bytes, new: bytes) -> None:
    content = file.read_bytes()
    assert old in content
    file.write_bytes(content.replace(old, new, 1))


def test_a_copy_is_the_same_data_with_the_same_report(made: PreparedData, folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {*PREPARED_FILES} - {"duplicates.jsonl"}
    copy = open_copy(folder)
    assert copy.folder == folder
    assert copy.data_fingerprint == made.data_fingerprint
    assert copy.report == made.report
    assert copy.report.num_duplicates == copy.report.num_rejected == 1
    for split in SPLITS:
        assert list(copy.records(split)) == list(made.records(split))


def test_a_cache_of_a_copy_is_that_of_the_files(
    made: PreparedData, folder: Path, tmp_path: Path, tokenizer: RecipeTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cache(config: DataConfig) -> TokenCache:
        return build_or_open_cache(config, cache_dir=tmp_path / "cache", tokenizer=tokenizer, num_workers=1)

    file = str(tmp_path / "recipes.jsonl")
    first = cache(DataConfig(path=file, validation_fraction=0.2, test_fraction=0.3))
    assert first.prepared == made
    monkeypatch.setattr(cache_module, "build_cache", lambda *_: pytest.fail("tokenized again"))
    second = cache(DataConfig(format="prepared", path=str(folder)))
    assert second.folder == first.folder
    assert list(second.examples("test")) == list(first.examples("test"))


def test_nothing_but_the_splits_decides(folder: Path) -> None:
    """Settings that divide and clean have been applied by whoever prepared it."""
    usual = open_copy(folder)
    assert usual == open_copy(folder, validation_fraction=0.0, min_quality_score=1.0, max_examples=1)
    (folder / "rejects.jsonl").unlink()
    (folder / "card.json").unlink()
    assert open_copy(folder).data_fingerprint == usual.data_fingerprint


@pytest.mark.parametrize("split", SPLITS)
def test_an_edited_line_is_other_data_with_a_report_that_only_counts(
    folder: Path, tokenizer: RecipeTokenizer, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "_SETTLED_SECONDS", -1.0)
    before = open_copy(folder)
    edit(folder / f"{split}.jsonl", b'"title":"', b'"title":"Grandmother\'s ')
    after = open_copy(folder)
    assert after.data_fingerprint != before.data_fingerprint
    assert after.report.num_examples == before.report.num_examples
    assert after.report.num_rejected == after.report.num_duplicates == 0
    cache = build_or_open_cache(
        DataConfig(format="prepared", path=str(folder)), cache_dir=folder.parent / "cache", tokenizer=tokenizer
    )
    titles = [example.title for name in SPLITS for example in cache.examples(name)]
    assert sum(title.startswith("Grandmother's ") for title in titles) == 1


@pytest.mark.parametrize("is_trained", [True, False])
def test_an_edit_while_it_is_tokenized_is_refused_and_leaves_nothing_behind(
    folder: Path, tokenizer: RecipeTokenizer, is_trained: bool
) -> None:
    config = DataConfig(format="prepared", path=str(folder))
    with_tokenizer: dict[str, Any] = {"tokenizer": None, "vocab_size": 500} if is_trained else {"tokenizer": tokenizer}

    def cache(progress: Progress) -> TokenCache:
        return build_or_open_cache(
            config, cache_dir=folder.parent / "cache", num_workers=1, progress=progress, **with_tokenizer
        )

    def edit_meanwhile(stage: str, _: int) -> None:
        if stage == ("training the tokenizer" if is_trained else "tokenizing train"):
            edit(folder / "validation.jsonl", b'"title":"', b'"title":"Grandmother\'s ')

    with pytest.raises(DataError, match=r"validation\.jsonl: was changed while it was read; start again"):
        cache(edit_meanwhile)
    assert not list((folder.parent / "cache").glob("*.building"))
    titles = [example.title for example in cache(lambda _stage, _count: None).examples("validation")]
    assert sum(title.startswith("Grandmother's ") for title in titles) == 1


def test_lines_may_be_taken_out_and_the_last_one_may_end_without_a_break(
    folder: Path, tokenizer: RecipeTokenizer
) -> None:
    file = folder / "train.jsonl"
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join(lines[3:]))
    prepared = open_copy(folder)
    assert prepared.report.num_examples["train"] == len(lines) - 3
    cache = build_or_open_cache(
        DataConfig(format="prepared", path=str(folder)), cache_dir=folder.parent / "cache", tokenizer=tokenizer
    )
    assert len(cache.split("train")) == len(lines) - 3
    assert cache.examples("train")[-1].title == json.loads(lines[-1])["title"]


def test_verify_reads_what_looks_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "_SETTLED_SECONDS", -1.0)
    monkeypatch.setattr(contents, "state_of", lambda file: (file.stat().st_size, 0, 0, 0))
    before = open_copy(folder)
    edit(folder / "train.jsonl", b"salt", b"soda")
    assert open_copy(folder).data_fingerprint == before.data_fingerprint
    assert open_copy(folder, verify=True).data_fingerprint != before.data_fingerprint


@pytest.mark.parametrize("split", SPLITS)
def test_a_missing_file_is_one_line_with_the_remedy(folder: Path, split: str) -> None:
    (folder / f"{split}.jsonl").unlink()
    with pytest.raises(
        DataError, match=rf"^data\.path=.*my recipes: holds no {split}\.jsonl; make .*task=prepare"
    ) as e:
        open_copy(folder)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("path", ["nowhere", "", "recipes.jsonl"])
def test_what_is_no_folder_holds_nothing(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes.jsonl").write_text("")
    with pytest.raises(DataError, match=r"holds no train\.jsonl"):
        open_folder(path, tmp_path, is_verified=False)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "truncated"),
        (b"", "truncated"),
        (b"\xff\xfe", "malformed"),
        (b"[1]", "Expected `object`"),
        (b'{"title": 3}', r"Expected `str.*title"),
        (b"[" * 100_000, "task=prepare"),
        (b'{"title": "Toast", "ingredients": ["bread"]}', "no whole recipe"),
        (b'{"title": "Toast", "ingredients": [], "instructions": ["Do."]}', "no whole recipe"),
        (b'{"input": "Toast?", "output": ""}', "no whole recipe"),
    ],
    ids=["cut", "blank", "no text", "a list", "a number", "deep", "no instructions", "no ingredients", "no output"],
)
def test_a_broken_line_is_named_with_its_place(
    folder: Path, tokenizer: RecipeTokenizer, line: bytes, said: str
) -> None:
    file = folder / "train.jsonl"
    lines = file.read_bytes().splitlines()
    lines[4] = line
    file.write_bytes(b"\n".join([*lines, b""]))
    config = DataConfig(format="prepared", path=str(folder))
    with pytest.raises(DataError, match=said) as error:
        build_or_open_cache(config, cache_dir=folder.parent / "cache", tokenizer=tokenizer, num_workers=2)
    assert str(error.value).startswith(f"{file}:5: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


TEXTS = st.sampled_from(["", "Toast"])
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "title": TEXTS,
        "ingredients": st.lists(st.just("bread"), max_size=1),
        "instructions": st.lists(st.just("Toast it."), max_size=1),
        "input": st.none() | TEXTS,
        "output": st.none() | TEXTS,
    },
)


@settings(deadline=None, max_examples=400)
@given(record=RECORDS)
def test_a_line_that_is_accepted_is_a_whole_recipe_or_a_whole_pair(record: dict[str, Any]) -> None:
    try:
        content = decode_record(json.dumps(record).encode(), Path("train.jsonl"), 1).content
    except DataError:
        return
    if isinstance(content, Pair):
        assert content.source_text
        assert content.target_text
    else:
        assert content.title
        assert content.ingredients
        assert content.instructions
