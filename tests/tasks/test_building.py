"""What tasks build of several prompts and of a curriculum, and what real runs make of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from small_runs import StopAt, final_state, run, series

import recipe_exp
from recipe_exp.config.compose import compose
from recipe_exp.errors import ConfigError, ResumeError
from recipe_exp.models.attention_choice import AttentionSetting
from recipe_exp.tasks import building
from recipe_exp.tasks.building import attention_setting, longest_example_tokens, plan_windows, resolve_machinery
from recipe_exp.tasks.checks import check
from recipe_exp.tasks.data import open_data
from recipe_exp.tasks.plan import setup_of
from recipe_exp.tasks.running.resuming import repeated_start

MIX = "data.prompts={title:1,ingredients:1,instruction:2}"
LONG = ("training.max_steps=16", "training.log_every_n_steps=1", "evaluation.every_n_steps=8", "model.dropout=0.1")


def data_of(overrides: Sequence[str]) -> Any:
    return open_data(compose(overrides), Console(quiet=True))


def test_the_longest_example_counts_its_longest_prompt(small_run: list[str]) -> None:
    cache = data_of([*small_run, "data.prompts={title:1,ingredients:1}"])
    split = cache.split("train")
    with_title, with_ingredients = split.all_source_lengths.astype(np.int64).T + split.target_lengths
    assert "{title}" in cache.prompts.templates[0]
    assert longest_example_tokens(cache) == with_ingredients.max() > with_title.max()


def test_the_plan_has_the_weights_of_the_mix_and_the_difficulty_of_the_curriculum(small_run: list[str]) -> None:
    cache = data_of([*small_run, MIX])
    split = cache.split("train")
    training = compose(small_run).training
    plain = plan_windows(training, 3, cache)
    assert (plain.seed, plain.batch_size, plain.fingerprint) == (3, 16, cache.data_fingerprint)
    assert dict(zip(cache.prompts.templates, plain.prompt_weights, strict=True)) == {
        template: 0.5 if template.startswith("I would") else 0.25 for template in cache.prompts.templates
    }
    assert plain.difficulty is None
    for curriculum, easy in (("short_first", -split.target_lengths), ("quality_first", split.quality_scores)):
        plan = plan_windows(training.model_copy(update={"curriculum": curriculum}), 3, cache)
        steps = range(plan.windows_per_epoch)
        order = np.concatenate([plan.window(step) for step in steps])
        third = len(order) // 3
        assert easy[order[:third]].mean() > easy[order].mean() > easy[order[-third:]].mean()
        assert [plan.window(step + len(steps)).tolist() for step in steps] == [
            plain.window(step + len(steps)).tolist() for step in steps
        ]


@pytest.mark.parametrize(
    ("overrides", "is_bias_tuned", "is_padded", "dropout"),
    [
        (("model=t5_mini",), True, False, 0.1),
        (("model=flan_t5_small", "training=lora"), False, False, None),
        (("model=flan_t5_small", "model.dropout=0"), True, False, 0.0),
    ],
)
def test_an_attention_kernel_is_chosen_for_what_is_tuned(
    overrides: Sequence[str], is_bias_tuned: bool, is_padded: bool, dropout: float | None
) -> None:
    config = compose(overrides)
    setting = attention_setting(setup_of(config, "bf16", is_compiled=True), "cuda")
    assert setting == AttentionSetting(
        "cuda", "bf16", config.model.shape, dropout, is_bias_tuned=is_bias_tuned, is_compiled=True, is_padded=is_padded
    )


@pytest.mark.parametrize(("then", "now"), [("sdpa", "sdpa"), ("flex", "eager")])
def test_a_repeated_run_keeps_its_attention_where_it_can_run(
    monkeypatch: pytest.MonkeyPatch, small_run: list[str], then: str, now: str
) -> None:
    config, cache = compose(small_run), data_of(small_run)
    machinery = resolve_machinery(config, cache).to_dict() | {"attention": then, "attention_reason": "as then"}
    asked = []
    choose = building.choose_attention
    monkeypatch.setattr(building, "choose_attention", lambda *given: asked.append(given) or choose(*given))
    start = repeated_start(config, cache, {"machinery": machinery})
    assert start.machinery.attention == now
    assert (start.machinery.attention_reason == "as then") == (not asked) == (then == now)


@pytest.mark.long
@pytest.mark.parametrize(
    ("keys", "stop_at"), [((MIX, "data.paraphrase=true"), 13), ((MIX, "training.curriculum=quality_first"), 4)]
)
def test_a_mixed_run_that_is_stopped_and_resumed_equals_the_whole_one(
    small_run: list[str], tmp_path: Path, keys: tuple[str, ...], stop_at: int
) -> None:
    overrides = [*small_run, *LONG, *keys]
    whole = run([*overrides, f"output_dir={tmp_path / 'whole'}"])
    stopped = run(overrides, StopAt(stop_at))
    assert stopped.status == "interrupted"
    continued = run([*overrides, "resume=latest"])
    assert continued.folder == stopped.folder
    assert series(continued) == series(whole)
    assert final_state(continued) == final_state(whole)


def test_evaluation_and_generation_keep_the_one_prompt(small_run: list[str]) -> None:
    own = ["data.templates={short:'Cook {title}'}", "data.prompt=short", MIX, "data.paraphrase=true"]
    result = run([*small_run, *own, "training.max_steps=3", "evaluation.samples_every_n_steps=3"])
    assert result.folder is not None
    samples = [json.loads(line) for line in (result.folder / "samples.jsonl").read_text().splitlines()]
    assert samples
    assert all(one["prompt"].startswith("Cook ") for sample in samples for one in sample["samples"])
    again = recipe_exp.evaluate(result.folder, output_dir=result.folder.parents[1])
    assert all(sample.prompt.startswith("Cook ") for sample in again.predictions)
    writer = recipe_exp.load(result.folder)
    assert writer.template == "Cook {title}"
    assert len(writer.generate(["title=Onion Soup"], max_new_tokens=4)) == 1


def test_a_mix_and_a_curriculum_change_what_is_learnt(small_run: list[str], tmp_path: Path) -> None:
    keys = ["training.max_steps=3", "evaluation.every_n_steps=null"]
    losses = [
        run([*small_run, *keys, *given, f"output_dir={tmp_path / str(number)}"]).metrics["train/loss"]
        for number, given in enumerate([[], [MIX], [MIX, "data.paraphrase=true"], ["training.curriculum=short_first"]])
    ]
    assert len(set(losses)) == 4


def test_the_micro_batch_does_not_change_what_a_mix_learns(small_run: list[str], tmp_path: Path) -> None:
    keys = [*small_run, MIX, "training.max_steps=3", "evaluation.every_n_steps=null"]
    whole, cut = (
        run([*keys, f"hardware.micro_batch_tokens={tokens}", f"output_dir={tmp_path / str(tokens)}"])
        for tokens in (16384, 256)
    )
    assert cut.metrics["train/loss"] == pytest.approx(whole.metrics["train/loss"], rel=1e-5)
    assert cut.metrics["train/grad_norm"] == pytest.approx(whole.metrics["train/grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("data.prompts={title:2,ingredients:1}", 'data.prompts: {"ingredients": 1.0, "title": 1.0} -> '),
        ("training.curriculum=short_first", "training.curriculum: none -> short_first"),
        ("data.paraphrase=true", "data.paraphrase: false -> true"),
    ],
)
def test_what_changes_prompts_or_order_is_refused_on_resume(small_run: list[str], key: str, line: str) -> None:
    first = [*small_run, "data.prompts={title:1,ingredients:1}", "evaluation.every_n_steps=null"]
    stopped = run(first, StopAt(2))
    with pytest.raises(ResumeError) as error:
        run([*first, "resume=latest", key])
    assert line in str(error.value)
    assert str(error.value).count("->") == 1
    same = [given for given in first if not given.startswith("data.prompts")]
    assert run([*same, "data.prompts={ingredients:1,title:1}", "resume=latest"]).folder == stopped.folder


def test_a_wrong_template_is_known_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError) as error:
        check(compose(["data.prompts={titel:1}", "data.templates={mine:Cook}"]))
    assert [line.partition("=")[0] for line in error.value.mistakes] == ["data.templates.mine", "data.prompts.titel"]
