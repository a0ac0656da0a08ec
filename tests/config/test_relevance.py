from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.config.base import every_key
from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.relevance import (
    FACTS,
    FIXED_KEYS,
    FREE_KEYS,
    LENGTH_KEYS,
    MAPPING_KEYS,
    Difference,
    changes,
    differences,
    explain_name,
    flatten,
    is_fixed,
    is_free,
    numbers_relevant,
    overlay,
    short_names,
)

DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "resume.md"


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
        *("training/schedule=cosine", "training.label_smoothing=0.1"),
        "training.early_stopping_patience=3",
        *("data.prompts={title:1}", "data.templates={mine:'Cook {title}'}", "data.paraphrase=true"),
        "training.curriculum=short_first",
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
        *("training.on_non_finite=skip_step", "training.max_loss_increase=9"),
    ],
)
def test_what_leaves_the_numbers_alone_may_differ(config: ExperimentConfig, override: str) -> None:
    changed = config.with_overrides([override])
    assert changed != config
    assert numbers_relevant(changed) == numbers_relevant(config)


def test_every_free_key_exists() -> None:
    keys = every_key(ExperimentConfig)
    assert [free for free in FREE_KEYS if not free.endswith(".") and free not in keys] == []
    assert [free for free in FREE_KEYS if not any(key.startswith(free) for key in keys)] == []


def test_a_free_key_frees_no_other_by_its_start() -> None:
    assert is_free("resume")
    assert not is_free("resumed")
    assert is_free("hardware.device")
    assert not is_free("hardware")


def test_the_documentation_lists_what_may_differ_and_what_is_compared() -> None:
    text = DOCUMENTATION.read_text(encoding="utf-8")
    free, compared = (
        text.partition(f"## {title}")[2].partition("\n## ")[0] for title in ("What may", "What is compared")
    )
    assert set(named_first(free)) == {f"{key}*" if key.endswith(".") else key for key in FREE_KEYS}
    assert tuple(named_first(compared)) == FACTS


def named_first(section: str) -> list[str]:
    """Every name in the first column of a section's tables."""
    return [
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)
    ]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("training.learning_ratee", "did you mean training.learning_rate?"),
        ("learning_rate", "did you mean training.learning_rate?"),
        ("precison", "did you mean precision?"),
        ("hardware.device", "did you mean device?"),
        ("hardware.num_processes", "did you mean num_processes?"),
        ("tags", "may differ anyway; leave it out"),
        ("evaluation.every_n_steps", "may differ anyway; leave it out"),
        ("training.optimizer", "a section; name its keys, such as training.optimizer.kind"),
        ("training.max_steps", "resume_schedule=keep or resume_schedule=stretch"),
        ("%%%", "nothing of that name is compared; name data, tokenizer"),
    ],
)
def test_a_name_that_cannot_be_permitted_says_why(name: str, remedy: str) -> None:
    assert remedy in (explain_name(name, every_key(ExperimentConfig)) or "")


def test_every_relevant_key_and_every_fact_can_be_permitted() -> None:
    keys = every_key(ExperimentConfig)
    relevant = [key for key in keys if not is_free(key) and not is_fixed(key) and key not in LENGTH_KEYS]
    assert {"training.adapter.alpha", "training.optimizer.beta2_decay", "training.optimizer.beta1"} <= set(relevant)
    assert [name for name in (*FACTS, *relevant) if explain_name(name, keys) is not None] == []


def test_what_a_checkpoint_does_not_fit_cannot_be_permitted() -> None:
    keys = every_key(ExperimentConfig)
    fixed = [key for key in keys if is_fixed(key)]
    assert {"model.shape.d_model", "training.optimizer.kind", "training.adapter.rank"} <= set(fixed)
    assert not any(map(is_free, fixed))
    assert [name for name in fixed if "cannot be permitted" not in (explain_name(name, keys) or "")] == []
    assert [name for name in FIXED_KEYS if not any(key.startswith(name) for key in keys)] == []


def test_another_option_of_a_union_is_one_difference_and_leaves_no_key_behind(config: ExperimentConfig) -> None:
    usual = compose([])
    given_now = usual.with_overrides(["training/optimizer=adafactor", "training.optimizer.clip_threshold=2.0"])
    assert list(map(str, changes(config, given_now, usual))) == ["training.optimizer.kind: adamw -> adafactor"]
    laid_over = overlay(config, given_now, usual).training.optimizer
    assert laid_over.model_dump() == {"kind": "adafactor", "beta2_decay": -0.8, "clip_threshold": 2.0}


def test_every_mapping_of_the_schema_is_compared_as_a_whole(config: ExperimentConfig) -> None:
    values = dict(flatten(config.model_dump(mode="json")))
    assert {key for key, value in values.items() if isinstance(value, dict)} == set(MAPPING_KEYS)
    mixed = config.with_overrides(["data.prompts={title:1,ingredients:2}"])
    assert changes(config, mixed, config) == [Difference("data.prompts", {}, {"ingredients": 2.0, "title": 1.0})]
    # Another mix replaces the first one, whatever the names in it.
    other = config.with_overrides(["data.prompts={instruction:1}"])
    assert overlay(mixed, other, config).data.prompts == {"instruction": 1.0}
    assert overlay(mixed, config, config).data.prompts == mixed.data.prompts
    literal = ExperimentConfig.from_data(
        {**mixed.model_dump(mode="json"), "data": {**mixed.data.model_dump(), "prompts": {"Cook {title}. Now.": 1.0}}}
    )
    assert overlay(mixed, literal, config).data.prompts == {"Cook {title}. Now.": 1.0}


def test_differences_name_key_then_and_now() -> None:
    then = {"a": 1, "b": None, "c": "x"}
    found = differences(then, {"a": 2, "b": None, "d": [1]})
    assert list(map(str, found)) == ["a: 1 -> 2", "c: x -> absent", "d: absent -> [1]"]
    assert [each.to_dict() for each in found][1:] == [
        {"key": "c", "then": "x", "now": None},
        {"key": "d", "then": None, "now": [1]},
    ]
    assert differences(then, dict(reversed(then.items()))) == []
    assert differences({"a": None}, {}) == [Difference("a", None, ...)]


@given(st.lists(st.from_regex(r"[a-c]{1,2}([./][a-c]{1,2}){0,2}", fullmatch=True), unique=True))
def test_short_names_tell_keys_apart(keys: list[str]) -> None:
    names = short_names(keys)
    assert list(names) == keys
    assert len(set(names.values())) == len(keys)


def test_flatten_gives_dotted_keys() -> None:
    assert dict(flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": None})) == {"a.b.c": 1, "a.d": [2], "e": None}
