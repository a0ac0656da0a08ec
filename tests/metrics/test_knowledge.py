from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from recipe_exp.data.sample import sample_recipes
from recipe_exp.errors import DataError
from recipe_exp.metrics import RECIPE_METRICS, Knowledge, Reading
from recipe_exp.recipes import render_markdown


def test_it_is_the_same_after_saving_and_loading(knowledge: Knowledge, tmp_path: Path) -> None:
    knowledge.save(tmp_path / "knowledge.json")
    loaded = Knowledge.load(tmp_path / "knowledge.json")
    assert loaded == knowledge
    text = render_markdown(next(sample_recipes(seed=8)))
    for metric in RECIPE_METRICS:
        assert metric(Reading(text, knowledge=loaded)) == metric(Reading(text, knowledge=knowledge))


def test_the_same_recipes_teach_the_same_and_samples_are_bounded() -> None:
    recipes = list(islice(sample_recipes(seed=2), 60))
    small = Knowledge.fit(recipes, max_recipes=20)
    assert small == Knowledge.fit(iter(recipes), max_recipes=20)
    assert small.num_recipes == 60
    assert small.phrases == Knowledge.fit(recipes).phrases
    assert sum(small.units.overall.values()) < sum(Knowledge.fit(recipes).units.overall.values())


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(DataError, match="no recipes to learn from"):
        Knowledge.fit([])


@pytest.mark.parametrize("content", ["", "{}", '{"version": 0}', "[]", '{"version": 1, "num_recipes": 3}'])
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "knowledge.json"
    path.write_text(content)
    with pytest.raises(DataError, match="fit it again") as caught:
        Knowledge.load(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="fit it again"):
        Knowledge.load(tmp_path / "missing.json")
