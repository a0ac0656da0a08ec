"""A cache that is there already is found, and nothing is made for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from recipe_exp.config.data import DataConfig
from recipe_exp.data.sample import sample_recipes
from recipe_exp.data.tokens.cache import build_or_open_cache, find_cache
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.errors import DataError


def sample(**settings: Any) -> DataConfig:
    return DataConfig(**{"format": "sample", "max_examples": 60, "validation_fraction": 0.1, **settings})


def below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_what_was_built_is_found(tmp_path: Path) -> None:
    assert find_cache(sample(), cache_dir=tmp_path / "cache", vocab_size=600) is None
    assert below(tmp_path) == set()
    built = build_or_open_cache(sample(), cache_dir=tmp_path / "cache", tokenizer=None, vocab_size=600)
    before = below(tmp_path)
    found = find_cache(sample(), cache_dir=tmp_path / "cache", vocab_size=600)
    assert found is not None
    assert found.folder == built.folder
    assert found.split("train").target_lengths.tolist() == built.split("train").target_lengths.tolist()
    assert below(tmp_path) == before


@pytest.mark.parametrize(
    "change", [{"max_examples": 70}, {"max_target_tokens": 50}, {"prompt": "title"}, {"validation_fraction": 0.2}]
)
def test_a_cache_of_other_data_or_prompts_is_another(tmp_path: Path, change: dict[str, Any]) -> None:
    build_or_open_cache(sample(), cache_dir=tmp_path, tokenizer=None, vocab_size=600)
    assert find_cache(sample(**change), cache_dir=tmp_path, vocab_size=600) is None
    assert find_cache(sample(), cache_dir=tmp_path, vocab_size=601) is None
    assert find_cache(sample(), cache_dir=tmp_path, vocab_size=None) is None


def test_that_of_a_pretrained_tokenizer_is_found_without_it(tmp_path: Path) -> None:
    trained = build_or_open_cache(sample(), cache_dir=tmp_path / "first", tokenizer=None, vocab_size=600)
    given: RecipeTokenizer = trained.tokenizer
    built = build_or_open_cache(sample(), cache_dir=tmp_path / "second", tokenizer=given)
    found = find_cache(sample(), cache_dir=tmp_path / "second", vocab_size=None)
    assert found is not None
    assert found.folder == built.folder


def test_files_are_recognised_by_their_remembered_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "recipes.jsonl"
    recipes = [recipe for recipe, _ in zip(sample_recipes(), range(40), strict=False)]
    lines = [
        f'{{"title": "{r.title}", "ingredients": ["{r.ingredients[0]}"], "instructions": ["Stir well."]}}'
        for r in recipes
    ]
    path.write_text("\n".join(lines))
    os.utime(path, (1e9, 1e9))
    config = DataConfig(format="jsonl", path=str(path), validation_fraction=0.1)
    monkeypatch.setattr("recipe_exp.data.contents.hash_of", lambda _: pytest.fail("reads the files"))
    assert find_cache(config, cache_dir=tmp_path, vocab_size=600) is None


def test_data_that_is_not_there_is_said(tmp_path: Path) -> None:
    build_or_open_cache(sample(), cache_dir=tmp_path, tokenizer=None, vocab_size=600)
    (tmp_path / "file_hashes.json").write_text("{}")
    with pytest.raises(DataError):
        find_cache(DataConfig(format="jsonl", path=str(tmp_path / "none.jsonl")), cache_dir=tmp_path, vocab_size=600)
