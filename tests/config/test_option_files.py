from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recipe_exp.config.compose import compose, compose_command, group_options
from recipe_exp.config.option_files import OptionFile, name_files
from recipe_exp.errors import ConfigError

HEADER = "# @package _global_\n"

Options = Callable[[str, str], Path]


def mistakes(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    return list(caught.value.mistakes)


def test_mistake_in_a_file_names_the_file(write_option: Options) -> None:
    path = write_option("local/default", HEADER + "seed: x\ntraining:\n  batch_size: 0\n  learning_ratte: 1\n")
    found = mistakes("run_name=7")
    assert found[0] == f"{path}: seed=x: must be a whole number"
    assert f"{path}: training.batch_size=0: must be at least 1" in found
    assert f"{path}: training.learning_ratte=1: no such key; did you mean training.learning_rate?" in found
    assert len([line for line in found if line.startswith("run_name=7: must be text")]) == 1


def test_the_file_whose_value_won_is_named(write_option: Options) -> None:
    write_option("local/default", HEADER + "training: {batch_size: 8}\n")
    path = write_option("experiment/mine", HEADER + "training: {batch_size: 0}\n")
    own = write_option("model/wide", "defaults: [t5_tiny, _self_]\ndropout: 3\n")
    assert mistakes("experiment=mine", "local=null") == [f"{path}: training.batch_size=0: must be at least 1"]
    assert mistakes("model=wide") == [f"{own}: model.dropout=3: must be less than 1"]


def test_what_was_typed_is_no_mistake_of_a_file(write_option: Options) -> None:
    write_option("local/default", HEADER + "training: {max_steps: 500, warmup_steps: 100}\n")
    assert mistakes("training.batch_size=0") == ["training.batch_size=0: must be at least 1"]
    (mistake,) = mistakes("training.max_steps=50")
    assert mistake.startswith("training.warmup_steps=100: the run ends at training.max_steps=50")


def test_file_is_found_by_the_section_that_its_keys_are_in() -> None:
    whole = OptionFile(Path("whole.yaml"), "local/default", "", {"training": {"batch_size": 0}, "a.b": 1})
    section = OptionFile(Path("section.yaml"), "training/full", "training", {"batch_size": 0, "optimizer": {"kind": 1}})
    files = [whole, section]
    data = {"training": {"batch_size": 0, "optimizer": {"kind": 1}}}

    def named(line: str, *typed: str) -> str:
        return name_files([line], data, files, typed)[0]

    assert named("training.batch_size=0: no") == "section.yaml: training.batch_size=0: no"
    assert named("training.optimizer.kind: no") == "section.yaml: training.optimizer.kind: no"
    assert named("a.b=1: no") == "whole.yaml: a.b=1: no"
    assert named("seed=1: no") == "seed=1: no"
    assert named("training.batch_size=0: no", "training.batch_size") == "training.batch_size=0: no"
    assert named("training.batch_size=0: over seed=3", "seed") == "training.batch_size=0: over seed=3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\n", "a file of this group begins with `# @package _global_`"),
        ("# @package ../../x\nseed: 1\n", "its header `# @package` names no section"),
        (HEADER + "model: 5\n", "model=5: must be a section of keys"),
        (HEADER + "training.batch_size: 2\n", "in a file keys are nested, as in `training: {batch_size: ...}`"),
        (HEADER + "defaults: {a: b}\n", "defaults: must be a list"),
        (HEADER + "defaults: [1]\n", "defaults: 1: write an option's name"),
        (HEADER + "defaults: [{a: 1, b: 2}]\n", "write an option's name, or one `group: option`"),
        (HEADER + "defaults: [../../outside]\n", "options are found by their names, not by a path"),
        (HEADER + "defaults: [default]\n", "the defaults of these files name each other without an end"),
        (HEADER + "defaults: [override /hydra/launcher: basic]\n", "Hydra's own settings are fixed"),
        (HEADER + "defaults: [/model@hydra.callbacks: t5_tiny]\n", "Hydra's own settings are fixed"),
        (HEADER + "hydra: {run: {dir: /tmp}}\n", "hydra.run.dir: Hydra's own settings are fixed"),
        (HEADER + "hydra: {callbacks: {a: {_target_: os.system}}}\n", "hydra.callbacks.a: Hydra's own settings are"),
        (HEADER + "hydra: {launcher: {_target_: x}}\n", "hydra.launcher._target_: Hydra's own settings are fixed"),
        (HEADER + "hydra: {sweeper: {params: [1]}}\n", "hydra.sweeper.params: write each key with its values"),
        ("# @package hydra.callbacks\na: {_target_: os.system}\n", "Hydra's own settings are fixed"),
    ],
)
def test_what_a_file_may_not_hold(write_option: Options, text: str, message: str) -> None:
    path = write_option("local/default", text)
    (mistake,) = mistakes()
    assert str(path) in mistake
    assert message in mistake


def test_comments_may_stand_before_the_header_and_a_file_may_be_empty(write_option: Options) -> None:
    write_option("local/default", "# mine\n\n" + HEADER + "seed: 5\n")
    assert compose().seed == 5
    write_option("local/default", "# nothing yet\n")
    assert compose().seed == 0


def test_sweep_in_a_file_is_looked_at_whole(write_option: Options) -> None:
    write_option("sweeps/mine", HEADER + "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}\n")
    composition = compose_command(["sweeps=mine", "training.batch_size=choice(2,4)"])
    assert composition.is_sweep
    assert composition.config.seed == 1
    assert len(composition.trials) == 4
    path = write_option("sweeps/mine", HEADER + "hydra: {mode: MULTIRUN, sweeper: {params: {seeed: '1,2'}}}\n")
    assert mistakes("sweeps=mine") == [f"{path}: seeed=1,2: no such key; did you mean seed?"]


@pytest.mark.parametrize("name", ["config", "schema", "model/schema", "training/optimizer/adamw_schema"])
def test_file_that_would_stand_in_for_the_schema_is_refused(write_option: Options, name: str) -> None:
    path = write_option(name, "seed: 1\n")
    assert any(line.startswith(f"{path}: would replace what every configuration") for line in mistakes())


def test_hydras_own_groups_have_no_files_here(write_option: Options) -> None:
    write_option("hydra/hydra_logging/default", "version: x\n")
    write_option("hydra/config", "callbacks: {a: {_target_: os.system}}\n")
    assert compose().seed == 0


def test_what_is_there_and_no_file_is_not_passed_over(config_folder: Path, write_option: Options) -> None:
    path = write_option("local/default", "")
    path.unlink()
    path.mkdir()
    assert mistakes() == [f"{path}: cannot be read: is no regular file"]
    path.rmdir()
    path.symlink_to("nowhere")
    assert mistakes() == [f"{path}: cannot be read: No such file or directory"]


def test_names_that_a_terminal_would_obey_are_shown_as_text(write_option: Options) -> None:
    write_option("model/\x1b[31m", "name: x\n")
    assert "\x1b[31m" in group_options()["model"]
    (mistake,) = mistakes("model=zzz")
    assert mistake.isprintable()
