from __future__ import annotations

from pathlib import Path

import pytest

from recipe_exp.data.tokens.cache import TokenCache
from recipe_exp.evaluation.anchors import COPIED, NEAREST, RANDOM, anchor_predictions, find_nearest
from recipe_exp.evaluation.examples import HeldOutExamples
from recipe_exp.metrics.predictions import Prediction


@pytest.fixture
def predictions(cache: TokenCache) -> list[Prediction]:
    return [
        Prediction(held_out.example.source_text, held_out.example.target_text, "x", (), "", held_out.example.title)
        for held_out in HeldOutExamples(cache, ("validation",)).first(6)
    ]


def test_the_nearest_title_shares_the_most_words() -> None:
    titles = ["Beef Stew", "Chicken Soup with Rice", "Rice", "Soups of chicken", "Chicken Soup"]
    count, found = find_nearest(["chicken soup", "Lamb stew", "cake"], titles)
    assert count == 5
    assert [titles[index] for index in found[0]] == ["Chicken Soup", "Soups of chicken"]
    assert [titles[index] for index in found[1]] == ["Beef Stew"]
    assert found[2] == []


def test_the_order_of_the_files_decides_nothing() -> None:
    titles = ["Red Soup", "Green Soup", "Blue Soup", "Soup"]
    names = [[order[index] for index in find_nearest(["Hot Soup"], order)[1][0]] for order in (titles, titles[::-1])]
    assert names == [["Soup", "Blue Soup"]] * 2


def test_anchors_answer_the_same_prompts_with_recipes_of_the_training_split(
    cache: TokenCache, predictions: list[Prediction], tmp_path: Path
) -> None:
    found = anchor_predictions(predictions, cache.prepared, tmp_path)
    training = {example.target_text for example in cache.examples("train")}
    assert list(found) == [RANDOM, NEAREST, COPIED]
    for name, texts in found.items():
        assert [each.reference for each in texts] == [each.reference for each in predictions]
        if name != COPIED:
            assert {each.generated for each in texts} <= training
    assert [each.generated for each in found[COPIED]] == [each.prompt for each in predictions]
    assert found[RANDOM] != found[NEAREST]


def test_what_was_found_is_read_again_and_does_not_depend_on_the_company(
    cache: TokenCache, predictions: list[Prediction], tmp_path: Path
) -> None:
    first = anchor_predictions(predictions, cache.prepared, tmp_path)
    (path,) = tmp_path.glob("anchors-*.json")
    before = path.stat().st_mtime_ns
    assert anchor_predictions(predictions, cache.prepared, tmp_path) == first
    assert path.stat().st_mtime_ns == before
    path.write_bytes(b"damaged")
    assert anchor_predictions(predictions, cache.prepared, tmp_path) == first
    fewer = anchor_predictions(predictions[2:4], cache.prepared, tmp_path)
    assert {name: texts[2:4] for name, texts in first.items()} == fewer


def test_a_training_recipe_is_not_its_own_anchor(cache: TokenCache, tmp_path: Path) -> None:
    own = [Prediction("p", example.target_text, "x", (), "", example.title) for example in cache.examples("train")[:5]]
    found = anchor_predictions(own, cache.prepared, tmp_path)
    assert all(each.generated != each.reference for each in found[NEAREST])


def test_without_data_there_is_only_the_prompt(predictions: list[Prediction], tmp_path: Path) -> None:
    assert list(anchor_predictions(predictions, None, tmp_path)) == [COPIED]
