from __future__ import annotations

from pathlib import Path

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.errors import CheckpointError, ResumeError
from recipe_exp.tasks.run_choice import RunChoice, choose_run
from recipe_exp.tracking import RunFolder


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
    first, *lines = str(caught.value).split("\n")
    assert first.startswith("resume: ")
    assert "leave out resume=" in first
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
