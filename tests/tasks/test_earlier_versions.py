"""Runs that earlier versions left are read, used and continued."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import record_of

from recipe_exp.__main__ import main
from recipe_exp.config.migrations import SCHEMA_VERSION

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
VERSIONS = sorted(int(path.name.removeprefix("schema_")) for path in FIXTURES.glob("schema_*"))

# Another version may make other tokens of the same recipes, which a user has to permit.
TOKENS = "resume_allow=[tokens,data,tokenizer]"

Command = Callable[..., int]


@pytest.fixture(params=VERSIONS)
def output_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the runs of one version."""
    copy = tmp_path / "outputs"
    shutil.copytree(FIXTURES / f"schema_{request.param}", copy)
    return copy


@pytest.fixture
def command(output_dir: Path, cache_dir: Path) -> Command:
    """Runs a command on these runs; a damaged link to their old place would show."""
    return lambda *words: main([*words, f"output_dir={output_dir}", f"data.cache_dir={cache_dir}"])


def run_folder(output_dir: Path, name: str) -> Path:
    (folder,) = (output_dir / "runs").glob(f"*-{name}")
    return folder


def run_id(output_dir: Path, name: str) -> str:
    return str(record_of(run_folder(output_dir, name))["run_id"])


def test_every_version_has_its_fixture() -> None:
    assert list(range(1, SCHEMA_VERSION + 1)) == VERSIONS


@pytest.mark.parametrize("name", ["full", "lora"])
def test_an_earlier_run_is_evaluated(output_dir: Path, command: Command, name: str) -> None:
    assert command("task=evaluate", f"task.run={name}", "hardware=cpu", "hardware.num_threads=1") == 0
    result = json.loads((run_folder(output_dir, name) / "evaluation-validation.json").read_text())
    best = record_of(run_folder(output_dir, name)).get("best")
    if best is not None:
        assert result["metrics"]["loss"]["value"] == pytest.approx(best["value"], rel=1e-5)


@pytest.mark.parametrize("name", ["full", "lora"])
def test_an_earlier_run_writes_recipes(
    command: Command, name: str, capsys: pytest.CaptureFixture[str], output_dir: Path
) -> None:
    assert command("task=generate", f"task.run={name}", "task.prompts=[Soup]", "hardware=cpu") == 0
    knows_base = (run_folder(output_dir, name) / "model" / "base.json").is_file()
    said = "stores no fingerprint of its base" in capsys.readouterr().err
    assert said == (name == "lora" and not knows_base)


def test_an_earlier_adapter_is_merged_into_the_base_beside_it(output_dir: Path, command: Command) -> None:
    assert command("task=merge", "task.run=lora") == 0
    merged = run_folder(output_dir, "lora") / "merged"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in merged.iterdir()}


def test_earlier_runs_are_compared(output_dir: Path, command: Command) -> None:
    output = output_dir / "comparison.json"
    assert command("task=compare", f"task.output={output}") == 0
    content = json.loads(output.read_text())
    assert [run["status"] for run in content["runs"]] == ["finished", "interrupted"]
    assert "training.adapter.kind" in content["differing_keys"]


def test_an_earlier_interrupted_adapter_goes_on_to_its_end(
    output_dir: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(output_dir, "lora")
    knew_base = record_of(folder).get("schema_version", 1) > 1
    assert command(f"resume={run_id(output_dir, 'lora')}", "training.stop_after_hours=1", TOKENS) == 0
    said = "names no base weights" in capsys.readouterr().out
    assert said != knew_base
    record = record_of(folder)
    assert (record["status"], record["step"], record["schema_version"]) == ("finished", 6, SCHEMA_VERSION)
    assert record["fingerprints"][-1]["base"] is not None
    assert (folder / "model" / "base.json").is_file()
    assert command("task=evaluate", "task.run=lora", "hardware=cpu") == 0


def test_an_earlier_finished_run_goes_on_to_more_steps(output_dir: Path, command: Command) -> None:
    folder = run_folder(output_dir, "full")
    resume = (f"resume={run_id(output_dir, 'full')}", "training.max_steps=9", TOKENS)
    assert command(*resume) == 2
    assert command(*resume, "resume_schedule=stretch") == 0
    record = record_of(folder)
    assert (record["status"], record["step"]) == ("finished", 9)
    assert (record["total_steps"], record["schedule_steps"]) == (9, 9)
    assert (folder / "checkpoints" / "step-00000009").is_dir()


@pytest.mark.parametrize(
    "words",
    [
        ["task=evaluate", "task.run={id}"],
        ["task=generate", "task.run={id}", "task.prompts=[Soup]"],
        ["task=merge", "task.run={id}"],
        ["task=compare", "task.runs=[{id}]"],
        ["resume={id}"],
    ],
    ids=lambda words: words[0].partition("=")[2],
)
def test_a_run_of_a_later_version_is_refused_in_one_line(
    output_dir: Path, command: Command, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(output_dir, "lora")
    later = record_of(folder) | {"schema_version": SCHEMA_VERSION + 1}
    (folder / "run.json").write_text(json.dumps(later))
    assert command(*(word.format(id=later["run_id"]) for word in words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"of schema version {SCHEMA_VERSION + 1}, and this recipe_exp reads versions up to {SCHEMA_VERSION}" in line


def test_a_run_of_a_later_version_is_passed_over_by_the_others(output_dir: Path, command: Command) -> None:
    folder = run_folder(output_dir, "lora")
    (folder / "run.json").write_text(json.dumps(record_of(folder) | {"schema_version": SCHEMA_VERSION + 1}))
    output = output_dir / "comparison.json"
    assert command("task=compare", f"task.output={output}") == 0
    assert [run["name"] for run in json.loads(output.read_text())["runs"]] == ["full"]
