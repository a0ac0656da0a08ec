from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from recipe_exp.__main__ import main
from recipe_exp.config.compose import compose
from recipe_exp.reports.run_diff import diff_runs
from recipe_exp.reports.run_summary import read_summary
from recipe_exp.tasks.train import train
from recipe_exp.tracking import RunFolder

CODE = "commit,patch"  # somebody may be working on it while the tests run


@pytest.fixture
def finished(small_run: list[str], tmp_path: Path) -> RunFolder:
    data = tmp_path / "recipes.jsonl"
    recipe = {"title": "Soup", "ingredients": ["1 onion", "2 cups water"], "instructions": ["Boil.", "Eat."]}
    rows = [{**recipe, "title": f"Soup {number}", "instructions": [f"Boil {number} minutes."]} for number in range(60)]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    own = ["data=files", f"data.path={data}", "data.duplicates=keep", "training.max_steps=4", "run_name=first"]
    result = train(compose([*small_run, *own, "model.dropout=0.1"]))
    assert result.folder is not None
    return RunFolder.open(result.folder)


def rerun(folder: RunFolder, *words: str) -> int:
    return main(["task=rerun", f"task.run={folder.run_id}", f"output_dir={folder.output_dir}", *words])


def newest(folder: RunFolder) -> RunFolder:
    (other,) = (path for path in folder.path.parent.iterdir() if path != folder.path)
    return RunFolder.open(other)


def test_a_run_trained_anew_gives_the_same_numbers(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert rerun(finished, f"task.allow=[{CODE}]") == 0
    again = newest(finished)
    found = diff_runs(read_summary(finished), read_summary(again))
    assert found.num_equal_points == found.num_common_points >= 15
    assert "are equal to the last bit" in capsys.readouterr().out
    assert (again.path / "model" / "model.safetensors").read_bytes() == (
        finished.path / "model" / "model.safetensors"
    ).read_bytes()
    assert again.scores_path.read_bytes() == finished.scores_path.read_bytes()
    assert len(again.scores_path.read_bytes().splitlines()) == 1
    record = again.read_record()
    assert (record["rerun_of"], record["run_name"]) == (finished.run_id, "first rerun")
    assert record["machinery"] == finished.read_record()["machinery"] | {
        "memory_bytes": record["machinery"]["memory_bytes"]
    }


def test_what_would_not_be_the_same_run_is_refused(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with (finished.path.parents[2] / "recipes.jsonl").open("a") as stream:
        stream.write('{"title": "Stew", "ingredients": ["1 leek"], "instructions": ["Stew the leek."]}\n')
    capsys.readouterr()
    assert rerun(finished, f"task.allow=[{CODE}]") == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("error:   data: ") and " -> " in line for line in lines)
    assert f"task.allow=[{CODE},data]" in lines[-1]
    assert list(finished.path.parent.iterdir()) == [finished.path]


def edit(folder: RunFolder, change: Callable[[dict[str, Any]], None]) -> None:
    with folder.edit_record() as record:
        change(record)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=7"], "seed: task=rerun repeats a run as it was (seed: 0 -> 7)"),
        (["task.allow=[comit]"], "task.allow=comit: no such name"),
        (["task.run=nothing"], "no such run"),
    ],
)
def test_mistakes_are_one_line(
    finished: RunFolder, capsys: pytest.CaptureFixture[str], words: Sequence[str], message: str
) -> None:
    capsys.readouterr()
    assert rerun(finished, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_other_code_is_named_with_the_way_back(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    def change(record: dict[str, Any]) -> None:
        record["provenance"]["git"] = {"commit": "c" * 40, "patch": "diff --git a/x b/x\n+secretly\n"}

    edit(finished, change)
    capsys.readouterr()
    inside = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, cwd=Path(__file__).parent, check=False)
    if inside.returncode:
        pytest.skip("the package runs from no repository, so its commit is not known")
    assert rerun(finished) == 2
    error = capsys.readouterr().err
    assert "error:   commit: cccccccccccc -> " in error
    assert "git checkout cccccccccccc; jq -r .provenance.git.patch " in error


def test_a_run_that_was_lengthened_is_not_that_of_its_length(
    finished: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(finished, lambda record: record.update(schedule_steps=2))
    assert rerun(finished, f"task.allow=[{CODE}]") == 2
    assert "schedule_steps: 2 -> 4" in capsys.readouterr().err


def test_what_never_began_cannot_be_repeated(finished: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    edit(finished, lambda record: record.update(machinery=None))
    assert rerun(finished) == 2
    assert "never began to train" in capsys.readouterr().err
