from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from recipe_exp.config.compose import compose, compose_command, group_options
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.preflight import (
    explain_flag,
    find_invalid_values,
    find_missing_files,
    find_too_many,
    find_unreadable,
)
from recipe_exp.errors import ConfigError


@cache
def default_config() -> ExperimentConfig:
    return compose()


def mistakes_of_change(*overrides: str) -> list[str]:
    """The mistakes of laying overrides over a finished configuration, which is quicker than composing one."""
    with pytest.raises(ConfigError) as caught:
        default_config().with_overrides(overrides)
    return list(caught.value.mistakes)


def mistakes(*overrides: str, check_files: bool = False, is_sweep: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose_command(overrides, check_files=check_files, is_sweep=is_sweep)
    assert caught.value.exit_code == 2
    return list(caught.value.mistakes)


def test_all_mistakes_are_reported_together_one_line_each() -> None:
    found = mistakes(
        "model=flan_t5_xxxl",
        "training.learning_ratte=1e-4",
        "+training.batch_sze=3",
        "modell=t5_tiny",
        "lora_r=8",
        "half an override",
        "seed=x",
        "training.batch_size=0",
        "training.max_grad_norm=nan",
        "training.label_smoothing=true",
    )
    assert found == [
        "model=flan_t5_xxxl: no such option; did you mean flan_t5_xxl?",
        "training.learning_ratte=1e-4: no such key; did you mean training.learning_rate?",
        "+training.batch_sze=3: no such key; did you mean training.batch_size?",
        "modell=t5_tiny: no such key; did you mean model?",
        "lora_r=8: no such key; here it is training.adapter.rank; with training=lora",
        "half an override: not an override; write key=value, and quote values with spaces or commas",
        "seed=x: must be a whole number",
        "training.batch_size=0: must be at least 1",
        "training.max_grad_norm=NaN: must be a finite number",
        "training.label_smoothing=true: must be a number",
    ]


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("training.learning_ratte=1", "training.learning_rate"),
        ("++training.learning_ratte=1", "training.learning_rate"),
        ("trainig.batch_size=1", "training.batch_size"),
        ("learning_rate_=1", "training.learning_rate"),
        ("data.max_source_token=5", "data.max_source_tokens"),
        ("patience_=3", "training.early_stopping_patience"),
        ("training.optimizer.betta1=0.8", "training.optimizer.beta1"),
        ("hardwear=cpu", "hardware"),
        ("training/optimiser=adamw", "training/optimizer"),
        ("model/optimizer=adamw", "training/optimizer"),
    ],
)
def test_unknown_key_names_the_nearest(override: str, nearest: str) -> None:
    (mistake,) = mistakes_of_change(override)
    assert mistake.endswith(f": no such key; did you mean {nearest}?")


def test_key_that_resembles_nothing_says_where_to_look() -> None:
    (mistake,) = mistakes("zzz.qqq=1")
    assert mistake == "zzz.qqq=1: no such key; --help lists the groups, --cfg job every key"


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("model=flan_t5_xxxl", "did you mean flan_t5_xxl?"),
        ("training=lor", "did you mean lora?"),
        ("hardware=rtx_5090", "did you mean rtx5090?"),
        ("data=csv", "choose from files, huggingface, jsonl, prepared, sample"),
        ("training/optimizer=sgd", "choose from adafactor, adamw"),
        ("model=null", "choose from flan_t5_base"),
        ("model=schema", "choose from flan_t5_base"),
        ("training/adapter=lora_schema", "choose from lora, none"),
        ("model=../model/t5_tiny", "did you mean t5_tiny?"),
        ("task=[train]", "did you mean train?"),
    ],
)
def test_unknown_option_names_the_nearest(override: str, answer: str) -> None:
    (mistake,) = mistakes_of_change(override)
    assert mistake.startswith(f"{override}: no such option; {answer}")


def test_every_swept_option_is_looked_at() -> None:
    (mistake,) = mistakes("model=t5_tiny,flan_t5_bse", is_sweep=True)
    assert mistake == "model=flan_t5_bse: no such option; did you mean flan_t5_base?"


@pytest.mark.parametrize(
    ("override", "mistake"),
    [
        ("training.batch_size=0", "training.batch_size=0: must be at least 1"),
        ("training.learning_rate=2", "training.learning_rate=2: must be at most 1"),
        ("training.learning_rate=0", "training.learning_rate=0: must be greater than 0"),
        ("data.validation_fraction=1.0", "data.validation_fraction=1.0: must be less than 1"),
        ("data.min_quality_score=7", "data.min_quality_score=7: must be at most 1"),
        ("data.max_source_tokens=70000", "data.max_source_tokens=70000: must be at most 65,535"),
        ("hardware.num_processes=0", "hardware.num_processes=0: must be at least 1 or one of 'auto'"),
        ("seed=-1", "seed=-1: must be at least 0"),
        ("seed=9223372036854775808", "must be less than 9,223,372,036,854,775,808"),
        ("training.optimizer.beta1=1", "training.optimizer.beta1=1: must be less than 1"),
        ("seed=1.5", "seed=1.5: must be a whole number"),
        ("seed=true", "seed=true: must be a whole number"),
        ('seed="1"', 'seed="1": must be a whole number'),
        ("seed=null", "seed=null: must be a whole number"),
        ("seed=[1]", "seed=[1]: must be a whole number"),
        ("training.learning_rate=fast", "training.learning_rate=fast: must be a number"),
        ("training.weight_decay=true", "training.weight_decay=true: must be a number"),
        ("training.weight_decay=nan", "training.weight_decay=NaN: must be a finite number"),
        ("training.max_grad_norm=inf", "training.max_grad_norm=Infinity: must be a finite number"),
        ("training.max_grad_norm=-inf", "training.max_grad_norm=-Infinity: must be"),
        ("training.weight_decay=1e999", "training.weight_decay=Infinity: must be a finite number"),
        ("model.gradient_checkpointing=1", "model.gradient_checkpointing=1: must be true or false"),
        ("model.gradient_checkpointing=often", "model.gradient_checkpointing=often: must be true or false"),
        ("run_name=7", "run_name=7: must be text"),
        ("tags=a", "tags=a: must be a list such as [a,b]"),
        ("tags={a:1}", 'tags={"a": 1}: must be a list such as [a,b]'),
        ("tags=[1]", "tags=1: must be text"),
        ("data.prompt=''", "data.prompt=: must not be empty"),
        ("data.prompts=title", "data.prompts=title: must be a mapping such as {title:1}"),
        ("data.prompts=[title]", 'data.prompts=["title"]: must be a mapping such as {title:1}'),
        ("data.prompts=null", "data.prompts=null: must be a mapping such as {title:1}"),
        ("data.prompts={title:0}", "data.prompts.title=0: must be greater than 0"),
        ("data.prompts={title:-1}", "data.prompts.title=-1: must be greater than 0"),
        ("data.prompts={title:inf}", "data.prompts.title=Infinity: must be"),
        ("data.prompts={title:nan}", "data.prompts.title=NaN: must be"),
        ("data.prompts={title:much}", "data.prompts.title=much: must be a number"),
        ("data.prompts.title=1", "a part of one value; write the whole, such as data.prompts={title:...}"),
        (f"data.prompts={{{','.join(f'a{n}:1' for n in range(33))}}}", "must hold at most 32 entries"),
        ("data.templates={mine:''}", "data.templates.mine=: must not be empty"),
        ("data.templates={a-b:'Cook {title}'}", "'a-b' is no plain name; write it with letters, digits and _"),
        ("training.curriculum=hard", "must be one of 'none', 'short_first' or 'quality_first'"),
        ("training.precision=int8", "training.precision=int8: must be one of 'auto', 'fp32', 'tf32' or 'bf16'"),
        ("training.precision=fp16", "training.precision=fp16: T5's activations overflow in fp16; use bf16"),
        ("training.callbacks=[mine]", "is not of the form module:Class"),
        ("run_name=${oc.env:RECIPE_EXP_NO_SUCH_VARIABLE}", "run_name: its interpolation cannot be resolved"),
        ("seed=${mul:2}", "seed: its interpolation cannot be resolved"),
        ("seed=${nothing}", "seed: its interpolation cannot be resolved: Interpolation key 'nothing' not found"),
    ],
)
def test_refused_value(override: str, mistake: str) -> None:
    (found,) = mistakes_of_change(override)
    assert mistake in found


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("+seed=1", "the key exists; write it without +"),
        ("++seed=1", "the key exists; write it without +"),
        ("+task=plan", "the group exists; write it without +"),
        ("+model=t5_tiny", "the group exists; write it without +"),
        ("~seed", "keys cannot be removed; set another value"),
        ("~data", "a group cannot be removed; choose with data=files|huggingface|jsonl|prepared|sample"),
        ("seed=???", "stands for a missing value; give one, or leave the key out"),
        ("training.optimizer=adafactor", "a group, not a value; choose with training/optimizer=adafactor|adamw"),
        ("training.optimizer.kind=adafactor", "choose with training/optimizer=adafactor|adamw"),
        ("task.kind=plan", "an option brings its own keys; choose with task=clean|"),
        ("model.shape=big", "a section, not a value; set its keys, such as model.shape.vocab_size"),
        ("training.adapter.rank=8", "a key of training/adapter=lora; choose that first"),
        ("training.optimizer.clip_threshold=2", "a key of training/optimizer=adafactor; choose that first"),
        ("training.schedule.num_cycles=2", "a key of training/schedule=cosine_with_restarts; choose that first"),
        ("task.prompts=[a]", "a key of task=generate; choose that first"),
        ("training/optimizer@model=adamw", "every group and key has one place; write training/optimizer=..."),
        ("seed=1,2", "a configuration has one value; only a sweep tries several"),
        ("seed=interval(1,2)", "a configuration has one value; only a sweep tries several"),
        ("seed=interval(2,1)", "an interval goes from a number to a larger one, such as interval(1e-5,1e-3)"),
        ("seed=tag(log,interval(0,1))", "a logarithmic interval begins above zero"),
        ("sweep.seed=1,2", "says how the sweep goes; give it one value"),
        ("model=glob(x*)", "there is no such value; a sweep needs one or more"),
        ("hydra.run.dir=/tmp", "Hydra's own settings are fixed, except hydra.mode"),
        ("hydra/launcher=basic", "Hydra's own settings are fixed"),
        ("hydra.mode=FAST", "must be RUN or MULTIRUN"),
    ],
)
def test_misused_key_says_how(override: str, remedy: str) -> None:
    (found,) = mistakes_of_change(override)
    assert found.startswith(f"{override}: ")
    assert remedy in found


def test_composing_says_the_same_and_more() -> None:
    assert mistakes("seed=1,2", "+experiment=standard", "~local", "experiment=standart", "training.adapter.rank=8") == [
        "seed=1,2: several values need a sweep; add --multirun",
        "+experiment=standard: the group exists; write it without +",
        "~local: a group cannot be removed; choose with local=default|example|null",
        "experiment=standart: no such option; did you mean standard?",
    ]
    assert mistakes("training.adapter.rank=8") == mistakes_of_change("training.adapter.rank=8")


def test_consequences_of_a_mistake_are_not_reported() -> None:
    """A key of another option, and a contradiction with a value that stands in for a refused one."""
    assert mistakes("training=lor", "training.adapter.rank=8") == ["training=lor: no such option; did you mean lora?"]
    assert len(mistakes("training.max_steps=many", "training.warmup_steps=2000")) == 1
    assert len(mistakes("model=flan_t5_xxxl", "training=lora", "training.adapter.rank=128")) == 1
    for line, key in zip(
        mistakes("sweeps=lora_rank"), ("training.adapter.rank=4,8", "training.adapter.alpha"), strict=True
    ):
        assert f"sweeps/lora_rank.yaml: {key}" in line
        assert line.endswith(": a key of training/adapter=lora; choose that first")


def test_contradictions_are_found_beside_refused_values() -> None:
    assert mistakes("seed=x", "data.path=recipes.jsonl", "evaluation.best_metric=eval/bleu") == [
        "seed=x: must be a whole number",
        "data.path=recipes.jsonl: generated recipes have no path; add data=files to read it",
        "evaluation.best_mode=min: eval/bleu is better when higher; set evaluation.best_mode=max",
    ]


def test_missing_files_are_found_beside_other_mistakes() -> None:
    found = mistakes("data=jsonl", "data.path=nowhere/recipes.jsonl", "seed=x", check_files=True)
    assert found[0] == "seed=x: must be a whole number"
    assert found[1].startswith("data.path=nowhere/recipes.jsonl: no such file or folder; looked for in ")
    assert len(found) == 2


def test_a_dataset_of_the_hub_is_no_file() -> None:
    assert find_missing_files({"data": {"format": "huggingface", "path": "owner/name"}}) == []
    assert len(find_missing_files({"data": {"format": "huggingface", "path": "./owner/name"}})) == 1
    assert len(find_missing_files({"data": {"format": "auto", "path": "owner/name"}})) == 1


def test_files_are_looked_for_only_where_they_are_read(tmp_path: Path) -> None:
    assert compose(["data=jsonl", "data.path=nowhere.jsonl"]).data.path == "nowhere.jsonl"
    (tmp_path / "recipes.jsonl").write_text("{}\n")

    def found(path: str, key: str = "data.path") -> list[str]:
        section, name = key.split(".")
        return find_missing_files({section: {name: path}})

    assert found(str(tmp_path)) == []
    assert found(f"{tmp_path}/*.jsonl") == []
    assert len(found(f"{tmp_path}/*.csv")) == 1
    assert len(found("~no_such_user_here/x")) == 1
    assert len(found("x" * 5000)) == 1
    assert len(found("a\0b")) == 1
    assert found("google/flan-t5-base", "model.name") == []
    assert len(found("./models/mine", "model.name")) == 1
    assert found("-", "task.prompts_file") == []
    assert len(found("prompts.txt", "task.prompts_file")) == 1
    assert find_missing_files({"data": 3}) == []


# What is not even parsed


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tags=" + "[" * 17, "nested too deeply"),
        ("seed=" + "choice(" * 1000, "nested too deeply"),
        ("tags=[" + "a," * 1001 + "]", "over 1,000 values in a list"),
        ("description=" + "x" * 60_000, "over 50,000 characters"),
        ("run_name=\udcff", "is not UTF-8"),
    ],
)
def test_override_that_would_hold_the_parser_up_is_refused(line: str, said: str) -> None:
    assert said in find_unreadable(line)
    (found,) = mistakes_of_change(line)
    assert said in found


def test_quoted_text_may_hold_anything() -> None:
    assert find_unreadable("description='" + "[(,{" * 5000 + "'") == ""
    assert find_unreadable('description="' + "[,'" * 5000 + '"') == ""
    assert find_unreadable("tags=[" + ",".join(["'a, b'"] * 900) + "]") == ""


def test_more_overrides_than_anybody_types_are_refused() -> None:
    assert find_too_many(["seed=1"] * 1000) == []
    assert find_too_many(["seed=1"] * 1001)[0].startswith("1,001 overrides")
    assert find_too_many(["description=" + "x" * 40_000] * 30)[0].startswith("1,200,360 characters of overrides")


# Secrets

TOKEN = "hf_" + "a1B2" * 6
WEBHOOK = "https://discord.com/api/webhooks/123/" + "x9" * 12


@pytest.mark.parametrize(
    "override",
    [
        f"description={TOKEN}",
        f"tags=[{TOKEN}]",
        f"run_name='run {WEBHOOK}'",
        f"data.prompt={WEBHOOK}",
        f"data.templates={{mine:'{WEBHOOK} {{title}}'}}",
        f"data.prompts={{{TOKEN}:0}}",
        f"data.templates={{{TOKEN}:''}}",
        "tracking.uri=https://me:hunter2hunter2@tracker/",
        "output_dir=s3://me:hunter2hunter2@bucket/",
        f"hf_token={TOKEN}",
        "hub_token=hunter2hunter2",
        "my.password=hunter2hunter2",
        "mlflow.api_key='hunter2hunter2, and more'",
        "my_secret=hunter2hunter2 unquoted, (",
        f"monitoring.discord_webhook={WEBHOOK}",
        f"+notify={WEBHOOK}",
        f"model={TOKEN}",
        f"seed={TOKEN}",
        f"hydra.job.env_set.HF={TOKEN}",
        f"seed={TOKEN},2",
        f"{TOKEN}",
        "model.shape={password: hunter2hunter2}",
    ],
)
def test_secret_is_refused_and_never_shown(override: str) -> None:
    found = mistakes_of_change(override)
    assert found
    for secret in (TOKEN, WEBHOOK, "hunter2"):
        assert secret not in " ".join(found)


def test_secret_from_the_environment_does_not_reach_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECIPE_EXP_TEST_TOKEN", TOKEN)
    (found,) = mistakes("description=${oc.env:RECIPE_EXP_TEST_TOKEN}")
    assert found.startswith("description=***: holds a token, which would be stored with the run; set it in the env")


def test_password_of_the_tracker_has_its_remedy() -> None:
    (found,) = mistakes("tracking.uri=https://me:hunter2@tracker/")
    assert found.startswith("tracking.uri=https://me:***@tracker/: ")
    assert "MLFLOW_TRACKING_PASSWORD" in found
    assert compose(["tracking.uri=https://tracker/"]).tracking.uri == "https://tracker/"


@pytest.mark.parametrize(
    ("flag", "answer"),
    [
        ("--learning_rate", "here it is training.learning_rate"),
        ("--per-device-train-batch-size", "here it is training.batch_size"),
        ("--seed", "keys are no flags; write seed=..."),
        ("--frobnicate", "--help lists the groups"),
    ],
)
def test_flag_is_answered_like_a_key(flag: str, answer: str) -> None:
    assert answer in explain_flag(flag)


def test_values_from_plain_data_are_explained_too() -> None:
    data = compose().model_dump(mode="json")
    data["training"]["learning_ratte"] = 1.0
    data["model"]["name"] = ""
    del data["hardware"]
    found = find_invalid_values(data, {}, group_options())
    assert found == [
        "model.name=: must not be empty",
        "training.learning_ratte=1.0: no such key; did you mean training.learning_rate?",
        "hardware: is missing",
    ]
