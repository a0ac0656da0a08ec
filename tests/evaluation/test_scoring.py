from __future__ import annotations

from pathlib import Path

import pytest

from recipe_exp.data.tokens.cache import TokenCache
from recipe_exp.evaluation.learnt import knowledge_of
from recipe_exp.evaluation.scoring import Scorer
from recipe_exp.metrics import compute_metrics
from recipe_exp.metrics.predictions import Prediction


@pytest.fixture
def predictions(cache: TokenCache) -> list[Prediction]:
    examples = cache.examples("train")[:4]
    return [
        Prediction(example.source_text, example.target_text, other.target_text, example.prompt_ingredients)
        for example, other in zip(examples, examples[::-1], strict=True)
    ]


def test_scores_are_those_of_the_metrics(cache: TokenCache, predictions: list[Prediction], tmp_path: Path) -> None:
    expected = compute_metrics(
        [each.reference for each in predictions],
        [each.generated for each in predictions],
        prompts=[each.prompt for each in predictions],
        prompt_ingredients=[each.prompt_ingredients or () for each in predictions],
        knowledge=knowledge_of(cache.prepared, tmp_path),
        loss=0.5,
    )
    assert Scorer(cache.prepared, tmp_path).score(predictions, 0.5) == expected


def test_what_was_scored_is_read_again(cache: TokenCache, predictions: list[Prediction], tmp_path: Path) -> None:
    scorer = Scorer(cache.prepared, tmp_path)
    first = scorer.score_once(predictions)
    assert first == scorer.score(predictions)
    (path,) = (tmp_path / "evaluations").glob("scores-*.json")
    before = path.stat().st_mtime_ns
    assert Scorer(cache.prepared, tmp_path).score_once(predictions) == first
    assert path.stat().st_mtime_ns == before
    path.write_bytes(path.read_bytes()[:-9])
    assert scorer.score_once(predictions) == first
    scorer.score_once(predictions[:3])
    assert len(list((tmp_path / "evaluations").glob("scores-*.json"))) == 2


def test_ingredients_are_looked_for_in_the_prompt_where_nobody_names_them(tmp_path: Path) -> None:
    reference = "**Toast**\n\n**Ingredients:**\n- bread\n- butter\n\n**Instructions:**\n1. Toast the bread."
    prediction = Prediction("Make something of bread and butter", reference, reference.replace("butter", "jam"))
    assert Scorer(None, tmp_path).score([prediction])["prompt_adherence"] == pytest.approx(0.5)
