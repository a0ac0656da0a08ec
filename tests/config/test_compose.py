from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipe_exp.config.base import default_values
from recipe_exp.config.compose import compose, compose_command, group_options
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.groups import GROUPS, SECTIONS, schemas
from recipe_exp.config.option_files import config_dir, user_config_dir
from recipe_exp.config.preflight import sections_in
from recipe_exp.config.relevance import flatten
from recipe_exp.config.training import LoraConfig
from recipe_exp.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = [
    *sorted(path.relative_to(REPOSITORY / "conf") for path in (REPOSITORY / "conf").rglob("*.yaml")),
    *sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / "sweeps").rglob("*.yaml")),
]
# What an option cannot do without; the rest of each is complete by itself.
NEEDS = {
    "data/files": ["data.path=recipes"],
    "data/huggingface": ["data.path=owner/name"],
    "data/jsonl": ["data.path=recipes.jsonl"],
    "data/prepared": ["data.path=prepared"],
    "sweeps/lora_rank": ["training=lora"],
    "sweeps/lora_targets": ["training=lora"],
    "sweeps/optuna_lora": ["training=lora"],
}
HEADER = "# @package _global_\n"


def values_of(config: ExperimentConfig) -> dict[str, Any]:
    return dict(flatten(config.model_dump(mode="json")))


@pytest.mark.parametrize("path", SHIPPED, ids=str)
def test_shipped_yaml_composes(path: Path) -> None:
    if path == Path("local/default.yaml"):
        pytest.skip("belongs to this machine")
    group, name = path.parent.as_posix(), path.stem
    if group == ".":
        assert name == "config"
        assert isinstance(compose(), ExperimentConfig)
        return
    config = compose([f"{group}={name}", *NEEDS.get(f"{group}/{name}", [])])
    own = yaml.safe_load((REPOSITORY / path if group == "sweeps" else REPOSITORY / "conf" / path).read_text()) or {}
    prefix = "" if group in ("experiment", "debug", "sweeps", "local") else group.replace("/", ".") + "."
    values = values_of(config)
    for key, value in flatten({key: value for key, value in own.items() if key not in ("defaults", "hydra")}):
        if not str(value).startswith("${"):
            assert values[prefix + key] == value


def test_every_shipped_yaml_is_an_option_of_a_group() -> None:
    options = group_options()
    found = {f"{group}/{name}" for group, names in options.items() for name in names}
    shipped = {path.with_suffix("").as_posix() for path in SHIPPED}
    assert shipped - {"config"} - {"local/default"} == found - {"local/default"}


def test_groups_of_the_design_exist() -> None:
    wanted = {
        "model": {"t5_tiny", "t5_mini", "flan_t5_small", "flan_t5_base", "flan_t5_large", "flan_t5_xl", "flan_t5_xxl"},
        "data": {"sample", "files", "jsonl", "huggingface"},
        "training": {"full", "lora", "rslora", "dora", "pissa", "lora_plus", "qlora"},
        "training/optimizer": {"adamw", "adafactor"},
        "training/schedule": {"linear", "cosine", "cosine_with_restarts", "constant", "inverse_square_root"},
        "training/adapter": {"none", "lora"},
        "hardware": {"auto", "cpu", "rtx4090", "rtx5090", "h100"},
        "task": {"train", "evaluate", "generate", "merge", "plan", "doctor"},
        "experiment": {"standard", "xxl_lora", "fast_iteration"},
        "sweeps": {"learning_rate", "lora_rank", "lora_targets", "model_size", "batch_and_rate", "optuna_lora"},
    }
    options = group_options()
    assert {group for group, names in wanted.items() if not names <= set(options[group])} == set()
    assert options["evaluation"]
    assert options["tracking"]
    assert options["debug"]
    assert not [name for names in options.values() for name in names if "schema" in name]


@pytest.mark.long
def test_every_combination_of_model_training_and_hardware_composes() -> None:
    """`hardware` is composed once for each option, since no other group changes it, and validated with all."""
    options = group_options()
    machines = {name: compose([f"hardware={name}"]).hardware for name in options["hardware"]}
    assert machines["rtx5090"] == compose(["model=flan_t5_xxl", "training=lora", "hardware=rtx5090"]).hardware
    for model, training in product(options["model"], options["training"]):
        config = compose([f"model={model}", f"training={training}"])
        has_adapter = not training.startswith(("full", "from_scratch"))
        assert isinstance(config.training.adapter, LoraConfig) == has_adapter
        usual = {"full": 32, "full_8bit": 32, "full_bf16": 32, "full_low_memory": 8}
        assert config.training.batch_size == usual.get(training, 16 if training.startswith("from_scratch") else 64)
        assert config.model.pretrained == model.startswith("flan")
        for machine in machines.values():
            data = config.model_dump(mode="json") | {"hardware": machine.model_dump(mode="json")}
            assert ExperimentConfig.from_data(data).hardware == machine


def test_cards_have_their_memory() -> None:
    memory = {name: compose([f"hardware={name}"]).hardware.memory_gb for name in ("rtx4090", "rtx5090", "h100")}
    assert memory == {"rtx4090": 24, "rtx5090": 32, "h100": 80}


def test_a_group_file_holds_only_what_makes_it_itself() -> None:
    """A value that the schema gives anyway would hide that it is no decision of the option's."""
    defaults = {group: default_values(section) for group, _, section in schemas() if group in SECTIONS}
    for path in SHIPPED:
        group = path.parent.as_posix()
        if group in defaults:
            own = yaml.safe_load((REPOSITORY / "conf" / path).read_text())
            assert own.pop("defaults")
            # Which format is read is the one thing that a data option is about.
            repeated = [key for key, value in own.items() if defaults[group].get(key, "???") == value]
            assert [key for key in repeated if key != "format"] == [], path


def test_xxl_with_lora() -> None:
    config = compose(["model=flan_t5_xxl", "training=lora"])
    adapter = config.training.adapter
    assert isinstance(adapter, LoraConfig)
    assert (adapter.rank, adapter.alpha, adapter.dropout, adapter.targets) == (16, 32.0, 0.05, "attention_qv")
    assert (config.training.batch_size, config.training.learning_rate) == (64, 1e-4)
    assert config.model.name == "google/flan-t5-xxl"
    assert config.model.shape.d_model == 4096
    assert not config.model.shape.tie_word_embeddings


def test_standard_experiment() -> None:
    config = compose(["experiment=standard"])
    training = config.training
    assert config.model.name == "google/flan-t5-large"
    assert (training.batch_size, training.num_epochs, training.learning_rate) == (32, 3, 5e-4)
    assert (training.schedule.kind, training.warmup_steps, training.adapter.kind) == ("linear", 1000, "none")
    assert training.max_steps is None


def test_xxl_lora_experiment() -> None:
    config = compose(["experiment=xxl_lora"])
    assert config.model.name == "google/flan-t5-xxl"
    assert config.training == compose(["model=flan_t5_xxl", "training=lora"]).training
    assert config.data.min_quality_score == 0.7


def test_fast_iteration_experiment() -> None:
    config = compose(["experiment=fast_iteration"])
    assert config.model.name == "google/flan-t5-base"
    assert (config.data.max_source_tokens, config.data.max_target_tokens) == (128, 256)
    training = config.training
    assert (training.num_epochs, training.learning_rate, training.schedule.kind) == (1, 1e-3, "constant")


def test_default_is_the_tiny_model_on_generated_recipes() -> None:
    config = compose()
    assert (config.task.kind, config.data.format, config.model.pretrained) == ("train", "sample", False)
    assert config.output_dir == "outputs"
    assert config.hardware.device == "auto"


def keys_of_all_options() -> Iterator[tuple[list[str], str, Any]]:
    """Yields (choices that bring the key, key, its JSON schema) for every key of every option."""
    schema = ExperimentConfig.model_json_schema()
    definitions = schema["$defs"]

    def walk(section: Any, properties: dict[str, Any], prefix: str, choices: list[str]) -> Iterator[Any]:
        for name, field in section.model_fields.items():
            options = sections_in(field.annotation)
            for option in options:
                inner = definitions[option.__name__]["properties"]
                group = f"{prefix}{name}".replace(".", "/")
                kind = option.model_fields["kind"].default if len(options) > 1 else None
                yield from walk(option, inner, f"{prefix}{name}.", [*choices, f"{group}={kind}"] if kind else choices)
            if not options and name != "kind":
                yield choices, f"{prefix}{name}", properties[name]

    yield from walk(ExperimentConfig, schema["properties"], "", [])


# Keys that contradict the rest of the default configuration unless another one comes with them.
COMPANIONS = {
    "data.format": ["data.path=recipes.jsonl"],
    "data.path": ["data=jsonl"],
    "evaluation.best_metric": ["evaluation.best_mode=max"],
    "evaluation.best_mode": ["evaluation.best_metric=eval/bleu"],
    "model.revision": ["model=flan_t5_base"],
    "training.adapter.quantization": ["training.adapter.init=lora"],
    "training.weights_dtype": ["training.precision=bf16"],
    "training.update_in_backward": ["training.max_grad_norm=null"],
}
SPECIAL = {
    "training.callbacks": ["module:Class"],
    "tracking.uri": "http://localhost:5000",
    "evaluation.best_metric": "eval/bleu",
    "data.format": "jsonl",
    "data.language": "en",
    "training.adapter.targets": ["q", "wo"],
    "training.optimizer.clip_threshold": 2.0,
    "resume_allow": ["seed"],
    "data.prompts": {"title": 2.0},
    "data.templates": {"mine": "Cook {title}"},
}


def another_value(key: str, schema: dict[str, Any], now: Any) -> Any:
    """A valid value other than the present one."""
    if key in SPECIAL:
        return SPECIAL[key]
    kinds = [schema, *schema.get("anyOf", [])]
    choices = [
        value for kind in kinds for value in [*kind.get("enum", []), *([kind["const"]] if "const" in kind else [])]
    ]
    if isinstance(now, bool):
        return not now
    for kind in kinds:
        if kind.get("type") in ("integer", "number") and now is not None and not isinstance(now, str):
            return now + 1 if kind["type"] == "integer" else now * 0.9 or kind.get("maximum", 0.5) * 0.5
        if kind.get("type") in ("integer", "number"):
            return 50
        if kind.get("type") == "array":
            return ["a"]
    return next((value for value in choices if value != now), "another")


def test_every_key_of_every_option_is_overridden_without_plus() -> None:
    by_choices: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[str, dict[str, Any]]] = {}
    for choices, key, schema in keys_of_all_options():
        # Said of a sweep alone, and many of them not together: `test_sweep.py`.
        if key.startswith("sweep."):
            continue
        by_choices.setdefault((tuple(choices), tuple(COMPANIONS.get(key, ()))), {})[key] = schema
    assert sum(map(len, by_choices.values())) > 80
    bases: dict[tuple[str, ...], ExperimentConfig] = {}
    for (choices, companions), keys in by_choices.items():
        base = bases[choices] = bases.get(choices) or compose(choices)
        now = values_of(base)
        wanted = {key: another_value(key, schema, now[key]) for key, schema in keys.items()}
        overrides = [*companions, *(f"{key}={yaml_value(value)}" for key, value in wanted.items())]
        changed = values_of(base.with_overrides(overrides))
        assert {key: changed[key] for key in wanted} == wanted
        assert not [key for key in wanted if changed[key] == now[key]]
        if not choices and not companions:
            assert values_of(compose(overrides)) == changed


def yaml_value(value: Any) -> str:
    """The value as a person would type it."""
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()
    return text if not isinstance(value, str) else f'"{value}"'


@pytest.mark.parametrize(
    ("group", "section"),
    [("training/optimizer", "optimizer"), ("training/schedule", "schedule"), ("training/adapter", "adapter")],
)
@pytest.mark.parametrize("under", [["training=lora"], ["experiment=standard"]])
def test_union_switches_and_leaves_no_key_behind(group: str, section: str, under: list[str]) -> None:
    schema_of = {name.removesuffix("_schema"): schema for of, name, schema in schemas() if of == group}
    for option, schema in schema_of.items():
        chosen = getattr(compose([*under, f"{group}={option}"]).training, section)
        assert type(chosen) is schema
        assert chosen.model_dump(mode="json") == default_values(schema)


def test_order_of_choices_does_not_matter() -> None:
    one = compose(["training/adapter=lora", "training=full", "training.adapter.rank=4"])
    other = compose(["training.adapter.rank=4", "training=full", "training/adapter=lora"])
    assert one == other
    assert one.training.batch_size == 32


def test_command_line_wins_over_experiment_and_local_file(write_option: Any) -> None:
    write_option("local/default", HEADER + "training:\n  learning_rate: 0.002\n  batch_size: 8\n")
    config = compose(["experiment=standard", "training.learning_rate=0.003"])
    assert config.training.learning_rate == 0.003
    assert config.training.batch_size == 8
    assert config.training.warmup_steps == 1000


def test_group_chosen_beside_an_experiment_wins() -> None:
    config = compose(["experiment=xxl_lora", "model=flan_t5_small"])
    assert config.model.name == "google/flan-t5-small"
    assert config.training.adapter.kind == "lora"


def test_sweep_file_starts_a_sweep() -> None:
    assert compose_command(["sweeps=learning_rate"]).is_sweep
    assert not compose_command([]).is_sweep
    assert compose_command(["training.learning_rate=1e-3,1e-4"], is_sweep=True).config.training.learning_rate == 1e-3


def test_alpha_follows_the_rank_in_the_rank_sweep() -> None:
    config = compose(["sweeps=lora_rank", "training=lora", "training.adapter.rank=4"])
    assert isinstance(config.training.adapter, LoraConfig)
    assert config.training.adapter.alpha == 8.0


def test_interpolation_names_another_key() -> None:
    config = compose(["training.checkpoint_every_n_steps=${evaluation.every_n_steps}", "evaluation.every_n_steps=70"])
    assert config.training.checkpoint_every_n_steps == 70


# The user's folder


def test_local_file_is_picked_up_and_can_be_left_out(write_option: Any) -> None:
    write_option("local/default", HEADER + "output_dir: /scratch\ntracking:\n  uri: http://tracker:5000\n")
    assert compose().output_dir == "/scratch"
    assert compose().tracking.uri == "http://tracker:5000"
    assert compose(["local=null"]).output_dir == "outputs"


def test_last_choice_of_a_group_wins() -> None:
    assert compose(["experiment=standard", "experiment=null"]) == compose()
    assert compose(["experiment=null", "experiment=standard"]).training.warmup_steps == 1000


def test_local_file_of_the_checkout_is_optional_and_ignored_by_git() -> None:
    assert "conf/local/default.yaml" in (REPOSITORY / ".gitignore").read_text().splitlines()
    defaults = yaml.safe_load((REPOSITORY / "conf" / "config.yaml").read_text())["defaults"]
    assert {"optional local": "default"} in defaults


def test_folder_of_options_of_ones_own(write_option: Any) -> None:
    write_option("model/wide", "defaults: [flan_t5_small, _self_]\n\ndropout: 0.3\n")
    write_option("experiment/mine", HEADER + "defaults:\n  - override /model: wide\nseed: 7\n")
    assert "wide" in group_options()["model"]
    config = compose(["experiment=mine"])
    assert (config.model.name, config.model.dropout, config.seed) == ("google/flan-t5-small", 0.3, 7)


def test_folder_is_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECIPE_EXP_CONFIG_DIR")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert user_config_dir() == tmp_path / "recipe_exp"
    path = tmp_path / "recipe_exp" / "local" / "default.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(HEADER + "seed: 11\n")
    assert compose().seed == 11
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert user_config_dir() == Path.home() / ".config" / "recipe_exp"


BROKEN_LOCAL_FILES = {
    "training:\n  learning_ratte: 1\n": "training.learning_ratte=1: no such key; did you mean training.learning_rate?",
    "use_lora: true\n": "use_lora=true: no such key; here it is training=lora",
    "discord_webhook: https://discord.com/api/webhooks/1/abc\n": "discord_webhook=***: no such key",
    "data: 3\n": "data=3: must be a section of keys",
    "training:\n  batch_size: many\n": "training.batch_size=many: must be a whole number",
    "training:\n  optimizer:\n    kind: sgd\n": "its `kind` must be one of 'adamw', 'adamw_8bit', 'adafactor'",
    "defaults:\n  - override /model: nope\n": "Could not find 'model/nope'",
    "a: [1\n": "local/default.yaml",
    "tracking:\n  uri: ${oc.env:RECIPE_EXP_NO_SUCH_VARIABLE}\n": "tracking.uri: its interpolation cannot be resolved",
    "1: 2\n": "1=2: no such key",
}


@pytest.mark.parametrize(("text", "message"), BROKEN_LOCAL_FILES.items())
def test_mistake_in_a_file_is_a_line_too(write_option: Any, text: str, message: str) -> None:
    write_option("local/default", HEADER + text)
    with pytest.raises(ConfigError) as caught:
        compose()
    (mistake,) = caught.value.mistakes
    assert message in mistake
    assert "webhooks/1/abc" not in mistake


def test_file_without_its_header_is_told_so(write_option: Any) -> None:
    write_option("local/default", "output_dir: /scratch\n")
    with pytest.raises(ConfigError, match="begins with `# @package _global_`"):
        compose()


def test_file_that_is_no_text_is_a_line(write_option: Any) -> None:
    write_option("local/default", "").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"local/default.yaml: is not UTF-8; save it as UTF-8 text"):
        compose()


# Other users of Hydra in the same process


def test_composes_inside_a_process_that_has_initialized_hydra(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine: 1\n")
    with initialize_config_dir(config_dir=str(tmp_path), version_base="1.3"):
        theirs = GlobalHydra.instance().hydra
        assert compose(["seed=3"]).seed == 3
        with pytest.raises(ConfigError):
            compose(["seed=x"])
        assert GlobalHydra.instance().hydra is theirs
    assert GlobalHydra.instance().hydra is None


def test_hydra_is_left_as_it_was_found() -> None:
    assert GlobalHydra.instance().hydra is None
    compose()
    assert GlobalHydra.instance().hydra is None


def test_nothing_is_written_and_the_folder_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    compose(["model=flan_t5_base"])
    assert list(empty.iterdir()) == []
    assert config_dir() == REPOSITORY / "conf"


# Whatever is typed

WORDS = [
    *("seed", "model", "training", "training.batch_size", "training/optimizer", "training.adapter.rank", "data.path"),
    *("tags", "run_name", "hydra", "hydra.mode", "hydra.run.dir", "hydra.launcher.slots", "experiment", "local"),
    *("flan_t5_base", "lora", "null", "true", "nan", "inf", "-1", "1e999", "???", "_self_", "schema", "defaults"),
    *("${", "}", "${seed}", "${oc.env:HOME}", "${mul:2,a}", "${mul:2}", "choice(", "range(", "glob(*)", "shuffle("),
    *("[", "]", "{", ")", "(", ",", ":", "=", "=", "=", ".", "/", "@", "+", "~", "-", " ", "'", '"', "\\", "\n", "\0"),
    *("9" * 5000, "x" * 300, "\ud800", "é", "..", "0", "1", "100000000"),
]
LINES = st.one_of(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map("".join),
    st.tuples(st.sampled_from(WORDS[:16]), st.lists(st.sampled_from(WORDS), max_size=5).map("".join)).map("=".join),
    st.text(max_size=40),
)
SHARED_FOLDER = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@settings(SHARED_FOLDER, max_examples=20)
@given(st.lists(LINES, min_size=1, max_size=2))
def test_any_override_gives_a_config_or_its_mistakes(overrides: list[str]) -> None:
    check_outcome(partial(compose, overrides))


@settings(SHARED_FOLDER, max_examples=100)
@given(LINES)
def test_any_change_gives_a_config_or_its_mistakes(line: str) -> None:
    check_outcome(partial(default_config().with_overrides, [line]))


@cache
def default_config() -> ExperimentConfig:
    return compose()


def check_outcome(attempt: Callable[[], ExperimentConfig]) -> None:
    began = time.process_time()
    config, mistakes = outcome(attempt)
    assert time.process_time() - began < 2.0
    assert (config is None) == bool(mistakes)
    assert [line for line in mistakes if not line.isprintable() or len(line) > 1000] == []
    if config:
        assert ExperimentConfig.from_data(yaml.safe_load(config.to_yaml())) == config


def outcome(attempt: Callable[[], ExperimentConfig]) -> tuple[ExperimentConfig | None, tuple[str, ...]]:
    try:
        return attempt(), ()
    except ConfigError as error:
        return None, error.mistakes


@pytest.mark.parametrize(
    "line",
    [
        *("", "=", "=1", "~", "@x=1", "seed=" + "[" * 300 + "]" * 300, "seed=" + "(" * 300, "seed=" + "9" * 5000),
        *("x" * 10000 + "=1", "a\nb=1", "seed=\0", 'run_name="\ud800"', "seed=shuffle(range(0,100000000))"),
        *("seed=shuffle(range(0.0,inf))", "seed=range(0,10,0)", "seed=${seed}", 'run_name="${"', "seed=???"),
        *("model=null", "model=schema", "+model=t5_tiny", "~model", "model@x=t5_tiny", "hydra=1", "hydra.run.dir=x"),
        *("hydra/launcher=basic", "hydra.mode=FAST", "+hydra.x=1", "hydra.searchpath=[file:///tmp]", "~seed"),
    ],
)
def test_what_would_break_hydra_is_one_line(line: str) -> None:
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        default_config().with_overrides([line])
    (mistake,) = caught.value.mistakes
    assert mistake.isprintable()
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize("line", ["seed=range(0,20000)", "seed=shuffle(range(0,20000))"])
def test_sweep_that_would_never_end_is_refused(line: str) -> None:
    with pytest.raises(ConfigError, match="more than 10,000 values"):
        compose_command([line], is_sweep=True)


def test_composing_is_quick() -> None:
    compose()
    began = time.process_time()
    compose(["model=flan_t5_xxl", "training=lora"])
    assert time.process_time() - began < 1.0


def test_groups_are_those_of_the_folders() -> None:
    folders = {
        path.relative_to(REPOSITORY / "conf").as_posix() for path in (REPOSITORY / "conf").rglob("*") if path.is_dir()
    }
    assert folders | {"sweeps", "local"} == set(GROUPS)


def test_the_path_of_this_machine_only_counts_for_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "default.yaml").write_text("# @package _global_\ndata:\n  path: /data/recipes\n")
    monkeypatch.setenv("RECIPE_EXP_CONFIG_DIR", str(tmp_path))
    assert compose([]).data.path is None
    assert compose(["data=jsonl"]).data.path == "/data/recipes"
    with pytest.raises(ConfigError, match="generated recipes have no path"):
        compose(["data.path=/elsewhere"])


def test_a_configuration_knows_the_keys_that_its_command_named() -> None:
    config = compose(["seed=0", "training=full", "training/optimizer=adamw", "debug=smoke"])
    assert config.typed_keys == frozenset({"seed", "training.optimizer"})
    changed = config.with_overrides(["training.batch_size=3"])
    assert changed.typed_keys == frozenset({"seed", "training.optimizer", "training.batch_size"})
    assert config == compose(["training=full", "debug=smoke"])
    assert ExperimentConfig.from_data(config.model_dump(mode="json")) == config
