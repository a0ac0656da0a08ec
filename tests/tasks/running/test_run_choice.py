from __future__ import annotations

from pathlib import Path

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.errors import CheckpointError, ConfigError, ResumeError
from recipe_exp.tasks.running.run_choice import RunChoice, choose_run
from recipe_exp.tracking import PARENT_RUN_ID_VARIABLE, RunFolder


@pytest.fixture(autouse=True)
def _no_user_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "user_config" / "local"
    folder.mkdir(parents=True)
    (folder / "default.yaml").write_text("# @package _global_\n{}\n")
    monkeypatch.setenv("RECIPE_EXP_CONFIG_DIR", str(folder.parent))


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def base(output_dir: Path) -> ExperimentConfig:
    return compose([f"output_dir={output_dir}", "training.learning_rate=1e-3"])


def make_run(config: ExperimentConfig, status: str = "interrupted", *, age: float = 0.0) -> RunFolder:
    """A run folder as training leaves it; a greater age makes it older than the others."""
    folder = RunFolder.create(Path(config.output_dir), run_name=config.run_name or "small", command=["recipe_exp"])
    config.to_yaml(folder.config_path)
    created = folder.read_record()["created"] - age
    folder.update_record(status=status, created=created)
    return folder


def choose(config: ExperimentConfig, *overrides: str) -> RunChoice:
    return choose_run(config.with_overrides(overrides))


def differences_of(caught: pytest.ExceptionInfo[ResumeError]) -> list[str]:
    assert caught.value.exit_code == 2
    first, *lines, remedy = str(caught.value).split("\n")
    assert first.startswith("resume: ")
    assert "leave out resume=" in remedy
    return [line.strip() for line in lines]


def test_without_resume_every_run_is_its_own(base: ExperimentConfig) -> None:
    make_run(base)
    assert choose(base) == RunChoice(base)


# resume=latest


def test_latest_starts_a_run_where_there_is_none(base: ExperimentConfig, output_dir: Path) -> None:
    choice = choose(base, "resume=latest")
    assert (choice.folder, choice.is_finished) == (None, False)
    assert not output_dir.exists()


@pytest.mark.parametrize("status", ["interrupted", "failed", "running"])
def test_latest_continues_the_unfinished_run_of_the_same_config(base: ExperimentConfig, status: str) -> None:
    folder = make_run(base, status)
    choice = choose(base, "resume=latest")
    assert (choice.folder, choice.is_finished) == (folder.path, False)
    assert choice.config.training == base.training


def test_latest_continues_on_another_machine_and_with_other_intervals(base: ExperimentConfig) -> None:
    folder = make_run(base)
    choice = choose(base, "resume=latest", "hardware=cpu", "evaluation.every_n_steps=7", "tags=[again]")
    assert choice.folder == folder.path
    assert choice.config.evaluation.every_n_steps == 7
    assert choice.config.tags == ("again",)


def test_latest_says_that_the_run_is_finished(base: ExperimentConfig) -> None:
    folder = make_run(base, "finished")
    choice = choose(base, "resume=latest")
    assert (choice.folder, choice.is_finished) == (folder.path, True)


def test_latest_takes_the_newest_of_the_same_config(base: ExperimentConfig) -> None:
    make_run(base, age=100.0)
    newest = make_run(base)
    make_run(base, age=50.0)
    assert choose(base, "resume=latest").folder == newest.path


def test_latest_refuses_a_near_match_with_its_differences(base: ExperimentConfig) -> None:
    folder = make_run(base)
    with pytest.raises(ResumeError) as caught:
        choose(base, "resume=latest", "training.learning_rate=2e-3", "seed=1")
    assert differences_of(caught) == ["seed: 0 -> 1", "training.learning_rate: 0.001 -> 0.002"]
    assert folder.path.name in str(caught.value)


def test_latest_prefers_the_same_config_over_a_newer_near_match(base: ExperimentConfig) -> None:
    same = make_run(base, age=100.0)
    make_run(base.with_overrides(["seed=1"]))
    assert choose(base, "resume=latest").folder == same.path


def test_latest_starts_a_run_where_none_is_near(base: ExperimentConfig) -> None:
    make_run(base)
    far = ["seed=1", "training.batch_size=8", "training.learning_rate=2e-3", "data.max_examples=70"]
    assert choose(base, "resume=latest", *far).folder is None


def test_latest_lets_finished_and_living_near_matches_be(base: ExperimentConfig) -> None:
    make_run(base.with_overrides(["seed=1"]), "finished")
    living = make_run(base.with_overrides(["seed=2"]), "running")
    with living.lock():
        assert choose(base, "resume=latest").folder is None
    with pytest.raises(ResumeError):
        choose(base, "resume=latest")


def test_latest_passes_over_a_run_whose_config_cannot_be_read(base: ExperimentConfig) -> None:
    folder = make_run(base, age=100.0)
    make_run(base).config_path.write_text("training: {use_lora: true}\n")
    make_run(base).config_path.unlink()
    assert choose(base, "resume=latest").folder == folder.path


# resume=RUN


def test_run_brings_its_own_config(base: ExperimentConfig, output_dir: Path) -> None:
    folder = make_run(base.with_overrides(["run_name=first", "evaluation.every_n_steps=7"]))
    choice = choose_run(compose([f"output_dir={output_dir}", f"resume={folder.run_id}"]))
    assert (choice.folder, choice.is_finished) == (folder.path, False)
    assert choice.config.training.learning_rate == 1e-3
    assert choice.config.evaluation.every_n_steps == 7
    assert choice.config.run_name == "first"
    assert choice.config.resume == folder.run_id


def test_run_is_named_by_its_start_its_name_or_its_folder(
    base: ExperimentConfig, output_dir: Path, tmp_path: Path
) -> None:
    folder = make_run(base.with_overrides(["run_name=first"]))
    elsewhere = tmp_path / "moved"
    (output_dir / "runs").rename(elsewhere)
    moved = elsewhere / folder.path.name
    assert choose(base, f"resume={moved}").folder == moved
    elsewhere.rename(output_dir / "runs")
    for reference in (folder.run_id[:-1], "first", folder.path.name):
        assert choose(base, f"resume={reference}").folder == folder.path


def test_run_with_the_same_keys_typed_again_is_continued(base: ExperimentConfig) -> None:
    folder = make_run(base)
    choice = choose(base, f"resume={folder.run_id}", "hardware=cpu")
    assert choice.folder == folder.path
    assert choice.config.hardware.device == "cpu"


def test_run_with_changed_keys_is_refused(base: ExperimentConfig) -> None:
    folder = make_run(base)
    with pytest.raises(ResumeError) as caught:
        choose(base, f"resume={folder.run_id}", "training.batch_size=8")
    assert differences_of(caught) == ["training.batch_size: 16 -> 8"]


def test_far_run_is_refused_too_if_it_was_named(base: ExperimentConfig) -> None:
    folder = make_run(base)
    far = ["seed=1", "training.batch_size=8", "training.learning_rate=2e-3", "data.max_examples=70"]
    with pytest.raises(ResumeError) as caught:
        choose(base, f"resume={folder.run_id}", *far)
    assert len(differences_of(caught)) == len(far)


def test_a_usual_value_that_is_typed_beside_an_id_counts(base: ExperimentConfig) -> None:
    usual = compose([])
    own = ["seed=3", "training.max_steps=700", "training/schedule=constant", "training.stop_after_hours=2"]
    folder = make_run(base.with_overrides([*own, "hardware.num_threads=1"]))
    again = [f"output_dir={base.output_dir}", f"resume={folder.run_id}"]
    with pytest.raises(ResumeError) as caught:
        choose_run(compose([*again, f"seed={usual.seed}", "training/schedule=linear", "hardware=cpu"]))
    assert differences_of(caught) == ["seed: 3 -> 0", "training.schedule.kind: constant -> linear"]
    free = ["training.stop_after_hours=null", "training.max_steps=null", "hardware=cpu"]
    continued = choose_run(compose([*again, *free])).config
    assert (continued.training.stop_after_hours, continued.training.max_steps) == (None, None)
    assert (continued.hardware.device, continued.hardware.num_threads) == ("cpu", 1), "the rest of a section stays"


def test_data_may_have_moved(output_dir: Path) -> None:
    there = compose([f"output_dir={output_dir}", "data=jsonl", "data.path=old/recipes.jsonl"])
    folder = make_run(there)
    choice = choose(there, f"resume={folder.run_id}", "data.path=new/recipes.jsonl")
    assert choice.folder == folder.path
    assert choice.config.data.path == "new/recipes.jsonl"


def test_finished_run_is_said_to_be_finished(base: ExperimentConfig) -> None:
    folder = make_run(base, "finished")
    assert choose(base, f"resume={folder.run_id}").is_finished


def test_run_that_does_not_exist_is_refused_with_the_nearest(base: ExperimentConfig) -> None:
    folder = make_run(base)
    with pytest.raises(CheckpointError, match=folder.run_id) as caught:
        choose(base, f"resume={folder.run_id[:-2]}zz")
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_choosing_writes_nothing(base: ExperimentConfig, output_dir: Path) -> None:
    folder = make_run(base)
    before = {path: path.stat().st_mtime_ns for path in output_dir.rglob("*")}
    choose(base, "resume=latest")
    choose(base, f"resume={folder.run_id}")
    after = {path: path.stat().st_mtime_ns for path in output_dir.rglob("*")}
    new = {path.name for path in set(after) - set(before)}
    assert new <= {"run.lock"}
    assert all(after[path] == stamp for path, stamp in before.items() if path.is_file())


# resume_allow

BOTH_WAYS = pytest.mark.parametrize("by_id", [False, True], ids=["latest", "id"])


def way(folder: RunFolder, *, by_id: bool) -> str:
    return f"resume={folder.run_id if by_id else 'latest'}"


@BOTH_WAYS
def test_what_is_permitted_by_name_may_differ(base: ExperimentConfig, by_id: bool) -> None:
    folder = make_run(base)
    changed = [way(folder, by_id=by_id), "training.learning_rate=2e-3", "seed=1"]
    with pytest.raises(ResumeError) as caught:
        choose(base, *changed, "resume_allow=[seed]")
    assert differences_of(caught) == ["training.learning_rate: 0.001 -> 0.002"]
    assert "resume_allow=[seed,training.learning_rate]" in str(caught.value)
    choice = choose(base, *changed, "resume_allow=[seed,training.learning_rate]")
    assert choice.folder == folder.path
    assert (choice.config.seed, choice.config.training.learning_rate) == (1, 2e-3)
    assert list(map(str, choice.differences)) == ["seed: 0 -> 1", "training.learning_rate: 0.001 -> 0.002"]


def test_the_same_configuration_comes_before_a_newer_permitted_one(base: ExperimentConfig) -> None:
    same = make_run(base, "finished", age=100.0)
    make_run(base.with_overrides(["seed=1"]))
    choice = choose(base, "resume=latest", "resume_allow=[seed]")
    assert (choice.folder, choice.is_finished) == (same.path, True)


def test_a_finished_run_does_not_go_on_for_a_permitted_difference(base: ExperimentConfig) -> None:
    folder = make_run(base.with_overrides(["seed=1"]), "finished")
    assert choose(base, "resume=latest", "resume_allow=[seed]").folder is None
    assert choose(base, f"resume={folder.run_id}", "seed=2", "resume_allow=[seed]").is_finished


def test_a_permission_is_for_one_command(base: ExperimentConfig) -> None:
    folder = make_run(base.with_overrides(["resume=latest", "resume_allow=[seed]"]))
    with pytest.raises(ResumeError, match="seed: 0 -> 1"):
        choose_run(compose([f"output_dir={base.output_dir}", f"resume={folder.run_id}", "seed=1"]))


# Another length

SHORT = ("training.max_steps=20", "training.warmup_steps=2")


def make_long_run(config: ExperimentConfig, status: str, *, step: int = 20) -> RunFolder:
    folder = make_run(config, status)
    folder.update_record(total_steps=20, schedule_steps=20, step=step, data={"num_examples": {"train": 4000}})
    return folder


@BOTH_WAYS
def test_more_steps_of_a_decay_need_a_decision(base: ExperimentConfig, by_id: bool) -> None:
    short = base.with_overrides([*SHORT, "training/schedule=cosine"])
    folder = make_long_run(short, "interrupted", step=7)
    longer = [way(folder, by_id=by_id), "training.max_steps=30"]
    with pytest.raises(ResumeError) as caught:
        choose(short, *longer)
    table, reason = differences_of(caught)
    assert table == "training.max_steps: 20 -> 30"
    assert "resume_schedule=stretch lays it over 30 steps" in reason
    with pytest.raises(ResumeError, match="further steps would learn nothing"):
        choose(short, *longer, "resume_schedule=keep")
    choice = choose(short, *longer, "resume_schedule=stretch")
    assert (choice.folder, choice.is_finished) == (folder.path, False)
    assert (choice.config.training.max_steps, choice.config.resume_schedule) == (30, "stretch")


@BOTH_WAYS
def test_a_finished_run_goes_on_to_more_steps(base: ExperimentConfig, by_id: bool) -> None:
    short = base.with_overrides(SHORT)
    folder = make_long_run(short, "finished")
    longer = [way(folder, by_id=by_id), "training.max_steps=30", "resume_schedule=stretch"]
    choice = choose(short, *longer)
    assert (choice.folder, choice.is_finished) == (folder.path, False)
    constant = short.with_overrides(["training/schedule=constant"])
    folder = make_long_run(constant, "finished")
    choice = choose(constant, way(folder, by_id=by_id), "training.max_steps=30")
    assert (choice.folder, choice.is_finished) == (folder.path, False)


def test_more_epochs_than_max_steps_lets_happen_are_no_more_steps(base: ExperimentConfig) -> None:
    short = base.with_overrides(SHORT)
    folder = make_long_run(short, "finished")
    choice = choose(short, f"resume={folder.run_id}", "training.num_epochs=500")
    assert (choice.folder, choice.is_finished) == (folder.path, True)


def test_fewer_steps_than_are_done_are_refused(base: ExperimentConfig) -> None:
    short = base.with_overrides(SHORT)
    folder = make_long_run(short, "finished")
    with pytest.raises(ResumeError, match="has done 20 steps already, more than the 10"):
        choose(short, f"resume={folder.run_id}", "training.max_steps=10", "resume_schedule=stretch")


def test_latest_says_which_finished_run_is_shorter(base: ExperimentConfig) -> None:
    short = base.with_overrides(SHORT)
    folder = make_long_run(short, "finished")
    choice = choose(short, "resume=latest", "training.max_steps=30")
    assert choice.folder is None
    assert choice.note is not None
    assert f"resume_schedule=stretch would continue {folder.run_id}" in choice.note
    unlike = choose(short, "resume=latest", "training.max_steps=30", "seed=1")
    assert unlike.note == "note: no unfinished run of this configuration; starting a new one"


def test_a_granted_wish_stays_with_the_run_and_a_further_one_is_expressed(base: ExperimentConfig) -> None:
    stretched = base.with_overrides([*SHORT, "resume=latest", "resume_schedule=stretch"])
    folder = make_long_run(stretched, "interrupted", step=3)
    again = [f"output_dir={base.output_dir}", f"resume={folder.run_id}"]
    assert choose_run(compose(again)).config.resume_schedule == "stretch"
    assert choose(base.with_overrides(SHORT), "resume=latest").config.resume_schedule == "stretch"
    with pytest.raises(ResumeError, match="resume_schedule=stretch lays it over 30"):
        choose_run(compose([*again, "training.max_steps=30"]))


def test_more_patience_lets_a_finished_run_go_on(base: ExperimentConfig) -> None:
    patient = base.with_overrides(["training.early_stopping_patience=2"])
    folder = make_run(patient, "finished")
    choice = choose(
        patient,
        f"resume={folder.run_id}",
        "training.early_stopping_patience=5",
        "resume_allow=[training.early_stopping_patience]",
    )
    assert (choice.folder, choice.is_finished) == (folder.path, False)


def test_keys_beside_an_id_go_together_with_the_runs_own(base: ExperimentConfig) -> None:
    folder = make_run(base.with_overrides([*SHORT, "training/schedule=constant"]))
    longer = [f"output_dir={base.output_dir}", f"resume={folder.run_id}", "training.max_steps=30"]
    assert compose([]).training.warmup_steps > 30, "alone they contradict each other"
    assert choose_run(compose(longer)).config.training.max_steps == 30
    with pytest.raises(ConfigError, match=r"training.warmup_steps=2: the run ends at training.max_steps=2"):
        choose_run(compose([*longer, "training.max_steps=2"]))


# Trials of a sweep


def test_a_trial_never_continues_another_trial(base: ExperimentConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PARENT_RUN_ID_VARIABLE, "SWEEP")
    constant = base.with_overrides([*SHORT, "training/schedule=constant"])
    sibling = make_long_run(constant, "finished")
    sibling.update_record(parent_run_id="SWEEP")
    longer = ["resume=latest", "training.max_steps=30"]
    assert choose(constant, *longer).folder is None
    assert choose(constant, *longer, "resume_schedule=stretch").folder is None
    assert choose(constant, "resume=latest").folder == sibling.path


def test_a_trial_continues_its_like_of_an_earlier_sweep_if_told_how(
    base: ExperimentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PARENT_RUN_ID_VARIABLE, "SWEEP")
    constant = base.with_overrides([*SHORT, "training/schedule=constant"])
    earlier = make_long_run(constant, "finished")
    earlier.update_record(parent_run_id="EARLIER")
    longer = ["resume=latest", "training.max_steps=30"]
    assert choose(constant, *longer).folder is None
    assert choose(constant, *longer, "resume_schedule=stretch").folder == earlier.path
