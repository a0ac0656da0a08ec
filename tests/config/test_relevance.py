from __future__ import annotations

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.relevance import FREE_KEYS, differences, flatten, numbers_relevant


@pytest.fixture(scope="module")
def config() -> ExperimentConfig:
    return compose(["training=lora", "model=flan_t5_base"])


@pytest.mark.parametrize(
    "override",
    [
        *("seed=1", "model=flan_t5_small", "model.dropout=0.3", "model.shape.d_ff=9", "data.path=x.jsonl"),
        *("data.min_quality_score=0.5", "data.max_examples=70", "data.validation_fraction=0.1", "data.prompt=title"),
        *("training.batch_size=8", "training.learning_rate=0.1", "training.num_epochs=9", "training.max_steps=900"),
        *(
            "training.adapter.rank=8",
            "training/adapter=none",
            "training/optimizer=adafactor",
            "training.precision=fp32",
        ),
        *("training/schedule=cosine", "training.label_smoothing=0.1", "training.on_non_finite=skip_step"),
        "training.early_stopping_patience=3",
    ],
)
def test_what_changes_the_numbers_is_relevant(config: ExperimentConfig, override: str) -> None:
    overrides = [override, *(["data.format=jsonl"] if "data.path" in override else [])]
    assert numbers_relevant(config.with_overrides(overrides)) != numbers_relevant(config)


@pytest.mark.parametrize(
    "override",
    [
        *("task=plan", "run_name=a", "description=b", "tags=[c]", "output_dir=d", "resume=latest"),
        *("tracking.enabled=false", "tracking.experiment=e", "hardware=cpu", "hardware.micro_batch_tokens=64"),
        *(
            "evaluation.every_n_steps=7",
            "evaluation.validation_prompts=[a]",
            "data.cache_dir=f",
            "data.max_rejected_fraction=0.5",
        ),
        *("training.log_every_n_steps=3", "training.checkpoint_every_n_steps=4", "training.keep_best_n_checkpoints=5"),
        *("training.stop_after_hours=1", "training.callbacks=[g:H]"),
    ],
)
def test_what_leaves_the_numbers_alone_may_differ(config: ExperimentConfig, override: str) -> None:
    changed = config.with_overrides([override])
    assert changed != config
    assert numbers_relevant(changed) == numbers_relevant(config)


def test_every_free_key_exists(config: ExperimentConfig) -> None:
    keys = [key for key, _ in flatten(config.model_dump(mode="json"))]
    assert [free for free in FREE_KEYS if not any(key.startswith(free) for key in keys)] == []


def test_a_free_key_frees_no_other_by_its_start(config: ExperimentConfig) -> None:
    keys = [key for key, _ in flatten(config.model_dump(mode="json"))]
    names = [free for free in FREE_KEYS if not free.endswith(".")]
    assert {key for key in keys if key.startswith(tuple(names))} == set(names)


def test_differences_name_key_then_and_now() -> None:
    then = {"a": 1, "b": None, "c": "x"}
    assert differences(then, {"a": 2, "b": None, "d": [1]}) == ["a: 1 -> 2", "c: x -> absent", "d: absent -> [1]"]
    assert differences(then, dict(reversed(then.items()))) == []
    assert differences({"a": None}, {}) == ["a: null -> absent"]


def test_flatten_gives_dotted_keys() -> None:
    assert dict(flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": None})) == {"a.b.c": 1, "a.d": [2], "e": None}
