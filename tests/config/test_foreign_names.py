from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import pytest

from recipe_exp.config.base import Section
from recipe_exp.config.compose import compose, group_options
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.foreign_names import (
    FOREIGN_NAMES,
    OLD_FLAGS,
    OLD_SECTIONS,
    OTHERS,
    PEFT,
    TRANSFORMERS,
    Answer,
    answer,
)
from recipe_exp.config.preflight import sections_in
from recipe_exp.errors import ConfigError

ANSWERS = sorted(set(FOREIGN_NAMES.values()), key=str)
KEY = re.compile(
    r"\b(?:seed|output_dir|run_name|(?:model|data|training|hardware|evaluation|tracking|task)\.[a-z_0-9.]*\w)"
)
CHOICE = re.compile(r"\b((?:model|data|training|hardware|tracking|task)(?:/\w+)?)=([\w|]+)")


@cache
def known_keys() -> frozenset[str]:
    """Every key of every option."""
    return frozenset(keys_in(ExperimentConfig, ""))


def keys_in(section: type[Section], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        options = sections_in(field.annotation)
        if not options:
            yield f"{prefix}{name}"
        for option in options:
            yield from keys_in(option, f"{prefix}{name}.")


@cache
def groups() -> dict[str, list[str]]:
    return group_options()


@cache
def default_config() -> ExperimentConfig:
    return compose()


def mistake(override: str) -> str:
    with pytest.raises(ConfigError) as caught:
        default_config().with_overrides([override])
    (line,) = caught.value.mistakes
    return line


@pytest.mark.parametrize("given", ANSWERS, ids=lambda given: str(given)[:60])
def test_answer_names_what_exists(given: Answer) -> None:
    assert given.here or given.note
    text = f"{given.here or ''} {given.note}"
    options = groups()
    for group, names in CHOICE.findall(text):
        if group in options:
            assert set(names.split("|")) <= set(options[group])
    settings = CHOICE.sub(lambda choice: "" if choice[1] in options else choice[0], text)
    for key in KEY.findall(settings):
        assert key in known_keys() or any(name.startswith(f"{key}.") for name in known_keys())


@pytest.mark.parametrize("given", [given for given in ANSWERS if given.here], ids=lambda given: str(given.here))
def test_answer_can_be_typed(given: Answer) -> None:
    """What stands in `here` is a key, a group's options, or a whole override."""
    assert given.here is not None
    left, sign, right = given.here.partition("=")
    if not sign:
        assert left in known_keys()
        return
    for option in right.split("|"):
        needed = ["data.path=recipes.jsonl"] if option == "jsonl" else []
        assert default_config().with_overrides([f"{left}={option}", *needed])


def test_names_in_the_promise_are_answered() -> None:
    expected = {
        "gradient_accumulation_steps=4": "training.batch_size",
        "per_device_train_batch_size=8": "training.batch_size",
        "use_lora=true": "training=lora",
        "lora_r=8": "training.adapter.rank",
        "use_bf16=true": "training.precision=bf16",
        "lr=1e-4": "training.learning_rate",
        "optimization.learning_rate=1e-4": "training.learning_rate",
        "training.gradient_accumulation_steps=4": "training.batch_size",
        "trainer.lora_alpha=16": "training.adapter.alpha",
        "Lora-R=8": "training.adapter.rank",
        "lora.dropout=0.1": "training.adapter.dropout",
        "checkpointing.save_total_limit=3": "training.keep_best_n_checkpoints",
        "dataset.max_source_length=9": "data.max_source_tokens",
    }
    for override, here in expected.items():
        assert f": no such key; here it is {here}" in mistake(override)
    for name in ("discord_webhook", "slack_webhook", "webhook_url", "monitoring.discord_webhook"):
        told = mistake(f"{name}=x")
        assert ": no such key; here it is tracking.notify" in told
        assert "names of environment variables" in told


def test_plus_changes_nothing_about_the_answer() -> None:
    assert mistake("+use_lora=true") == "+use_lora=true: no such key; here it is training=lora"


def test_own_keys_are_never_taken_for_foreign_ones() -> None:
    """A whole foreign name wins over a key of the same last part, and a last part never does."""
    assert "here it is training.adapter.dropout" in mistake("lora.dropout=0.1")
    assert mistake("nowhere.batch_size=3").endswith("did you mean training.batch_size?")
    assert compose(["training.batch_size=3"]).training.batch_size == 3


def test_names_are_looked_up_whole_and_then_by_their_last_part() -> None:
    assert answer("lora_r") == answer("a.b.lora_r") == PEFT["lora_r"]
    assert answer("lora.r") == OLD_SECTIONS["lora.r"]
    assert answer("a.lora_r", is_whole=True) is None
    assert answer("nothing_like_it") is None


def test_tables_do_not_overlap() -> None:
    assert sum(map(len, (TRANSFORMERS, PEFT, OLD_FLAGS, OLD_SECTIONS, OTHERS))) == len(FOREIGN_NAMES)
    assert all(name == name.lower().replace("-", "_") for name in FOREIGN_NAMES)


def test_every_name_is_answered_on_the_command_line() -> None:
    own = {name for name in FOREIGN_NAMES if name in known_keys()}
    names = sorted(set(FOREIGN_NAMES) - own)
    with pytest.raises(ConfigError) as caught:
        default_config().with_overrides([f"{name}=1" for name in names])
    for name, line in zip(names, caught.value.mistakes, strict=True):
        assert line.endswith(f": no such key; {FOREIGN_NAMES[name]}"), name
