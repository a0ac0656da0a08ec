from __future__ import annotations

from pathlib import Path

from recipe_exp.config.data import DataConfig
from recipe_exp.data.tokens.cache import open_or_prepare
from recipe_exp.evaluation.learnt import knowledge_of, recipes_of
from recipe_exp.metrics import Knowledge


def test_it_is_learnt_once_from_the_training_split_alone(tmp_path: Path) -> None:
    data = DataConfig(format="sample", max_examples=120, validation_fraction=0.3)
    prepared = open_or_prepare(data, cache_dir=tmp_path, num_workers=1)
    knowledge = knowledge_of(prepared, tmp_path)
    assert knowledge == Knowledge.fit(recipes_of(prepared, "train"))
    (path,) = tmp_path.glob("knowledge-*.json")
    written = path.stat().st_mtime_ns
    assert knowledge_of(prepared, tmp_path) == knowledge
    assert path.stat().st_mtime_ns == written
    path.write_text("{}")
    assert knowledge_of(prepared, tmp_path) == knowledge, "a broken file is learnt again"
