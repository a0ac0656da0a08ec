from __future__ import annotations

from dataclasses import replace

import pytest

from recipe_exp.data.sample import sample_recipes
from recipe_exp.metrics import Knowledge, Reading
from recipe_exp.metrics.originality import Phrases, fingerprints, originality
from recipe_exp.recipes import Recipe, render_markdown

WORDS = tuple(f"word{'abcdefghijkl'[n]}" for n in range(12))


def test_the_share_of_phrases_that_training_has() -> None:
    phrases = Phrases.fit([WORDS])
    assert phrases.share_found([WORDS]) == 1.0
    assert phrases.share_found([WORDS[:9] + ("other",) * 3]) == 2 / 5
    assert phrases.share_found([WORDS[:7]]) is None
    assert Phrases.fit([]).share_found([WORDS]) == 0.0


def test_the_number_of_phrases_is_bounded() -> None:
    texts = [tuple(f"w{n}x{m}" for n in range(40)) for m in range(30)]
    small = Phrases.fit(texts, max_phrases=100)
    assert small.stride >= 8
    assert len(set(small.packed)) > 0
    assert small.share_found(texts) == 1.0
    assert small.share_found([tuple(f"v{n}" for n in range(200))]) == 0.0
    assert sum(1 for words in texts for print_ in fingerprints(words) if print_ % small.stride == 0) <= 100


def test_a_copy_is_not_original(knowledge: Knowledge) -> None:
    training = next(sample_recipes(seed=1))
    steps = tuple(step for step in training.instructions if len(step.split()) > 9)
    assert steps
    copy = replace(training, instructions=steps)
    own = Recipe("Tea", ("tea",), ("Let nobody tell you that a quokka never brews strong black tea at dawn.",))
    scores = [originality(Reading(render_markdown(recipe), knowledge=knowledge)) for recipe in (copy, own)]
    assert scores == [pytest.approx(0.0), 1.0]
    assert originality(Reading(render_markdown(replace(own, instructions=("Stir.",))), knowledge=knowledge)) == 1.0
    assert originality("") is None
