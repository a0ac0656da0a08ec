from __future__ import annotations

import json
from pathlib import Path

import recipe_exp
from recipe_exp.config.data import DataConfig
from recipe_exp.data.split import point_of
from recipe_exp.data.tokens.cache import TokenCache, build_or_open_cache
from recipe_exp.evaluation.examples import HeldOutExamples


def titles(cache: TokenCache, count: int = 1000) -> list[str]:
    return [held_out.example.title for held_out in HeldOutExamples(cache, ("validation",)).first(count)]


def test_the_order_is_that_of_the_titles_hashes(cache: TokenCache) -> None:
    found = titles(cache)
    assert len(found) == len(cache.split("validation")) > 8
    assert found == sorted(found, key=point_of, reverse=True)
    assert titles(cache, 3) == found[:3]


def test_texts_are_those_of_their_tokens(cache: TokenCache) -> None:
    for held_out in HeldOutExamples(cache, ("train", "validation")).first(12):
        source = cache.tokenizer.encode(held_out.example.source_text)
        assert cache.split(held_out.split).source(held_out.index).tolist()[:20] == source[:20]


def test_several_splits_are_one_list(cache: TokenCache) -> None:
    both = HeldOutExamples(cache, ("train", "validation"))
    assert len(both) == len(cache.split("train")) + len(cache.split("validation"))
    places = both.indices(len(both))
    assert len(set(places)) == len(both)
    assert places[0][0] == "validation", "the end of the line that titles stand on"


def test_the_order_of_the_files_does_not_matter(cache: TokenCache, tmp_path: Path) -> None:
    recipes = [recipe for recipe, _ in zip(recipe_exp.sample_recipes(seed=3), range(60), strict=False)]
    found = []
    for name, rows in (("forwards", recipes), ("backwards", recipes[::-1])):
        folder = tmp_path / name
        folder.mkdir()
        lines = [
            json.dumps(
                {"title": row.title, "ingredients": list(row.ingredients), "instructions": list(row.instructions)}
            )
            for row in rows
        ]
        (folder / "r.jsonl").write_text("\n".join(lines))
        config = DataConfig(
            format="jsonl", path=str(folder), validation_fraction=0.4, test_fraction=0.0, duplicates="keep"
        )
        other = build_or_open_cache(config, cache_dir=tmp_path / "cache", tokenizer=cache.tokenizer, num_workers=1)
        found.append(titles(other, 10))
    assert found[0] == found[1]
