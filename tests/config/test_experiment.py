from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from recipe_exp.config.base import Section, sections_in
from recipe_exp.config.compose import compose
from recipe_exp.config.evaluation import LOWER_IS_BETTER
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.errors import ConfigError


@cache
def default_config() -> ExperimentConfig:
    return compose()


def mistakes(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        default_config().with_overrides(overrides)
    return list(caught.value.mistakes)


# The schema is the documentation


def all_sections(section: type[Section]) -> set[type[Section]]:
    inner = [option for field in section.model_fields.values() for option in sections_in(field.annotation)]
    return {section}.union(*map(all_sections, inner))


SECTIONS = sorted(all_sections(ExperimentConfig), key=lambda section: section.__name__)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_key_is_documented_and_reaches_the_json_schema(section: type[Section]) -> None:
    properties = section.model_json_schema()["properties"]
    assert (section.__doc__ or "").strip()
    for name in section.model_fields:
        description = section.documentation().get(name)
        assert description, f"{section.__name__}.{name} has no docstring"
        assert description[0].isupper() or description[0] == "`"
        assert description.endswith(".")
        assert properties[name]["description"] == description


def test_whole_schema_holds_every_section() -> None:
    definitions = ExperimentConfig.model_json_schema()["$defs"]
    assert {section.__name__ for section in SECTIONS} - {"ExperimentConfig"} == set(definitions)
    assert len(SECTIONS) > 20


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_section_is_strict_and_frozen(section: type[Section]) -> None:
    settings_of_model = section.model_config
    assert settings_of_model["extra"] == "forbid"
    assert settings_of_model["frozen"]
    assert settings_of_model["strict"]
    assert settings_of_model["allow_inf_nan"] is False


def test_config_is_frozen_at_every_depth() -> None:
    config = default_config()
    with pytest.raises(ValidationError):
        config.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.training.optimizer.kind = "adafactor"  # type: ignore[assignment, misc]
    assert isinstance(config.tags, tuple)


# Contradictions


@pytest.mark.parametrize(
    ("overrides", "key", "remedy"),
    [
        (["data.format=jsonl"], "data.path=null", "set data.path=..."),
        (["data.path=x.jsonl"], "data.path=x.jsonl", "add data=files"),
        (["data.max_examples=null"], "data.max_examples=null", "set how many"),
        (["data.validation_fraction=0.6", "data.test_fraction=0.4"], "data.validation_fraction=0.6", "lower one"),
        (["model.revision=main"], "model.revision=main", "model.pretrained=true"),
        (["training/adapter=lora", "training.adapter.rank=65"], "training.adapter.rank=65", "lower it"),
        (["evaluation.best_metric=eval/bleu"], "evaluation.best_mode=min", "evaluation.best_mode=max"),
        (["evaluation.best_mode=max"], "evaluation.best_mode=max", "evaluation.best_mode=min"),
        (
            ["training.early_stopping_patience=2", "evaluation.every_n_steps=null"],
            "training.early_stopping_patience=2",
            "set evaluation.every_n_steps",
        ),
        (
            ["data.validation_fraction=0", "evaluation.every_n_steps=300"],
            "evaluation.every_n_steps=300",
            "evaluation.every_n_steps=null",
        ),
        (["training.warmup_steps=1500"], "training.warmup_steps=1500", "lower one or raise the other"),
        (["hardware.device=cpu", "training.precision=tf32"], "training.precision=tf32", "use fp32"),
    ],
)
def test_contradiction_names_key_and_remedy(overrides: list[str], key: str, remedy: str) -> None:
    (line,) = mistakes(*overrides)
    assert line.startswith(f"{key}: ")
    assert remedy in line


def test_each_half_of_a_contradiction_is_fine_alone() -> None:
    changed = default_config().with_overrides
    assert changed(["hardware.compile=true"]).hardware.compile is True
    assert changed(["model.gradient_checkpointing=true"]).model.gradient_checkpointing is True
    assert changed(["training.precision=tf32"]).training.precision == "tf32"
    unevaluated = changed(["data.validation_fraction=0", "evaluation.every_n_steps=null"])
    assert (unevaluated.data.validation_fraction, unevaluated.evaluation.every_n_steps) == (0.0, None)
    assert changed(["training.early_stopping_patience=2"]).training.early_stopping_patience == 2
    for metric in LOWER_IS_BETTER:
        assert changed([f"evaluation.best_metric={metric}"]).evaluation.best_metric == metric


def test_all_contradictions_are_reported_at_once() -> None:
    assert len(mistakes("data.path=x", "evaluation.best_mode=max", "training.warmup_steps=2000")) == 3


# YAML

TEXT = st.text(
    st.characters(
        exclude_categories=["Cc", "Cs", "Zl", "Zp"],
        exclude_characters="\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    ),
    max_size=30,
)
QUOTED = TEXT.filter(lambda text: "${" not in text and not text.endswith("\\") and "\\'" not in text)


def quoted(text: str) -> str:
    return "'" + text.replace("\\'", "'").replace("'", "\\'") + "'"


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, exclude_min=True)


VALID = {
    "seed": st.integers(0, 2**63 - 1),
    "run_name": st.none() | QUOTED,
    "description": st.none() | QUOTED,
    "tags": st.lists(QUOTED, max_size=3),
    "data.prompt": QUOTED.filter(bool),
    "data.prompts": st.dictionaries(st.sampled_from(["title", "instruction", "mine"]), numbers(0, 1e6)),
    "data.min_quality_score": st.floats(0, 1),
    "data.max_source_tokens": st.integers(8, 65535),
    "training.batch_size": st.integers(1, 10**9),
    "training.learning_rate": numbers(0, 1),
    "training.weight_decay": st.floats(0, 1e300),
    "training.max_grad_norm": st.none() | numbers(0, 1e300),
    "training.stop_after_hours": st.none() | numbers(0, 1e5),
    "training.optimizer.epsilon": numbers(0, 1),
    "training.precision": st.sampled_from(["auto", "fp32", "tf32", "bf16"]),
    "hardware.micro_batch_tokens": st.just("auto") | st.integers(16, 10**6),
    "hardware.num_processes": st.just("auto") | st.integers(1, 64),
    "model.gradient_checkpointing": st.booleans(),
    "model.dropout": st.none() | st.floats(0, 0.99),
}
OVERRIDES = st.lists(st.sampled_from(sorted(VALID)), unique=True, max_size=8).flatmap(
    lambda keys: st.fixed_dictionaries({key: VALID[key] for key in keys})
)


def typed(value: Any) -> str:
    """The value in the grammar of the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{name}:{typed(item)}' for name, item in value.items())}}}"
    if isinstance(value, str):
        return quoted(value)
    return yaml.safe_dump(value).removesuffix("\n...\n").strip()


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OVERRIDES)
def test_valid_overrides_hold_and_survive_yaml(tmp_path: Path, values: dict[str, Any]) -> None:
    config = default_config().with_overrides([f"{key}={typed(value)}" for key, value in values.items()])
    data = config.model_dump(mode="json")
    for key, value in values.items():
        section: Any = data
        for part in key.split("."):
            section = section[part]
        assert section == value
    path = tmp_path / "config.yaml"
    text = config.to_yaml(path)
    assert path.read_text(encoding="utf-8") == text
    assert ExperimentConfig.from_yaml(path) == config
    assert ExperimentConfig.from_data(data) == config


def test_yaml_is_complete_and_in_the_order_of_the_schema() -> None:
    data = yaml.safe_load(default_config().to_yaml())
    assert list(data) == list(ExperimentConfig.model_fields)
    assert data["training"]["optimizer"] == {"kind": "adamw", "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}


@pytest.mark.parametrize(
    "overrides", [["training=lora", "task=generate"], ["experiment=standard", "data.max_examples=5"]]
)
def test_composed_config_survives_yaml(tmp_path: Path, overrides: list[str]) -> None:
    config = compose(overrides)
    config.to_yaml(tmp_path / "config.yaml")
    assert ExperimentConfig.from_yaml(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config.yaml: is empty"),
        ("- a", "config.yaml: holds a list"),
        ("a: [", "config.yaml:1: cannot be read as YAML"),
        ("seed: 1\na: \x01", "config.yaml:2: cannot be read as YAML: the character U.0001 is no text"),
        ("seed: 1\nseed: 2", "config.yaml:2: cannot be read as YAML: the key seed stands here twice"),
        ("seed: !!python/name:os.system", "config.yaml:1: cannot be read as YAML: tags such as python/name:os.system"),
    ],
)
def test_file_that_is_no_config_is_a_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        ExperimentConfig.from_yaml(path)
    assert len(caught.value.mistakes) == 1
    assert "\n" not in str(caught.value)


def test_file_that_is_missing_or_no_text_is_a_line(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / "binary.yaml"):
        if path.name.startswith("binary"):
            path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ConfigError) as caught:
            ExperimentConfig.from_yaml(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_file_reports_all_its_mistakes_with_the_nearest_key(tmp_path: Path) -> None:
    data = default_config().model_dump(mode="json")
    data["training"] |= {"batch_size": 0, "learning_ratte": 1e-4, "use_lora": True}
    data["extra"] = 1
    del data["seed"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError) as caught:
        ExperimentConfig.from_yaml(path)
    assert caught.value.mistakes == (
        f"{path}: training.batch_size=0: must be at least 1",
        f"{path}: training.learning_ratte=0.0001: no such key; did you mean training.learning_rate?",
        f"{path}: training.use_lora=true: no such key; here it is training=lora",
        f"{path}: extra=1: no such key; --help lists the groups, --cfg job every key",
    )


# with_overrides


def test_with_overrides_changes_values_and_leaves_the_rest() -> None:
    config = default_config()
    changed = config.with_overrides(["training.learning_rate=1e-4", "tags=[a]", "data.max_examples=70"])
    assert (changed.training.learning_rate, changed.tags, changed.data.max_examples) == (1e-4, ("a",), 70)
    assert changed.with_overrides(["training.learning_rate=5e-3", "tags=[]", "data.max_examples=10000"]) == config
    assert config.with_overrides([]) == config


def test_with_overrides_takes_a_chosen_option_as_a_whole() -> None:
    config = compose(["training.batch_size=8", "seed=5"])
    changed = config.with_overrides(["training=lora", "training.adapter.rank=4"])
    assert changed.training.batch_size == 64
    assert changed.training.adapter.model_dump()["rank"] == 4
    assert (changed.seed, changed.model) == (5, config.model)
    assert config.with_overrides(["training/optimizer=adafactor"]).training.batch_size == 8


def test_with_overrides_keeps_text_that_looks_like_an_interpolation() -> None:
    data = default_config().model_dump(mode="json") | {"description": "costs ${price} and ${seed}"}
    changed = ExperimentConfig.from_data(data).with_overrides(["run_name=${description}", "seed=3"])
    assert changed.description == "costs ${price} and ${seed}"


def test_with_overrides_reports_all_mistakes() -> None:
    assert mistakes("seed=x", "lr=1", "model=nope", "experiment=standard", "seed=1,2") == [
        "lr=1: no such key; here it is training.learning_rate",
        "model=nope: no such option; choose from "
        "flan_t5_base, flan_t5_large, flan_t5_small, flan_t5_xl, flan_t5_xxl, t5_mini, t5_tiny",
        "experiment=standard: choose it when composing; it would change many sections",
        "seed=1,2: a configuration has one value; only a sweep tries several",
        "seed=x: must be a whole number",
    ]


def test_reading_a_config_needs_neither_hydra_nor_torch() -> None:
    code = (
        "import sys; from recipe_exp.config.experiment import ExperimentConfig; "
        "print([name for name in ('hydra', 'omegaconf', 'torch', 'transformers', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# How a run is continued


@pytest.mark.parametrize("key", ["resume_strict=true", "resume_allow=[seed]", "resume_schedule=keep"])
def test_a_word_on_how_to_continue_needs_a_run_to_continue(key: str) -> None:
    (line,) = mistakes(key)
    assert line.startswith(key.partition("=")[0])
    assert "no run is continued; add resume=latest or resume=RUN_ID" in line
    assert default_config().with_overrides([key, "resume=latest"]) != default_config()


def test_only_training_continues_a_run() -> None:
    assert mistakes("resume=latest", "task=evaluate") == [
        "resume=latest: only training continues a run; name it with task.run"
    ]


def test_every_name_that_cannot_be_permitted_is_reported_with_the_nearest() -> None:
    assert mistakes("resume=latest", "resume_allow=[seed,training.learning_ratee,divice,data]") == [
        "resume_allow=[training.learning_ratee]: nothing of that name is compared; did you mean "
        "training.learning_rate?",
        "resume_allow=[divice]: nothing of that name is compared; did you mean device?",
    ]


def test_keys_beside_a_named_run_are_looked_at_together_with_its_own() -> None:
    alone = ["training.max_steps=10", "training.warmup_steps=20"]
    assert len(mistakes(*alone, "resume=latest")) == 1
    default_config().with_overrides([*alone, "resume=some-run"])


# Full tuning in little memory

IN_BACKWARD = ["training=full_low_memory"]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["training=full", "training.weights_dtype=bf16"],
            "training.precision=auto: weights held in bfloat16 are computed with in it",
        ),
        (["training=lora", "training.precision=bf16", "training.weights_dtype=bf16"], "an adapter is small and stays"),
        ([*IN_BACKWARD, "training/adapter=lora"], "an adapter's gradients are small"),
        ([*IN_BACKWARD, "training.max_grad_norm=1.0"], "set training.max_grad_norm=null"),
        ([*IN_BACKWARD, "training.on_non_finite=skip_step"], "set training.on_non_finite=stop or rollback"),
        ([*IN_BACKWARD, "hardware.num_processes=2"], "set hardware.num_processes=1"),
        ([*IN_BACKWARD, "hardware.micro_batch_tokens=512"], "a window is one micro-batch"),
    ],
)
def test_what_little_memory_forbids_is_said_with_the_remedy(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    assert any(line in mistake for mistake in caught.value.mistakes)


@pytest.mark.parametrize("option", ["full_bf16", "full_8bit", "full_low_memory"])
def test_the_options_for_little_memory_contradict_nothing(option: str) -> None:
    training = compose([f"training={option}"]).training
    assert (training.precision, training.weights_dtype) == ("bf16", "bf16")
    assert training.update_in_backward == (option == "full_low_memory")


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3", "flash"])
def test_flash_attention_is_refused_with_the_reason_and_what_to_take_instead(name: str) -> None:
    (mistake,) = mistakes(f"model.attention={name}")
    assert mistake.startswith(f"model.attention={name}: flash attention's kernel takes no additive bias")
    assert mistake.endswith("use auto, or sdpa_varlen or flex_varlen for the attention that has none")
