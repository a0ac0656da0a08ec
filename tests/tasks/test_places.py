"""Places that a command reads and writes, seen through its configuration alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.errors import CheckpointError, ModelError
from recipe_exp.tasks.places import check_base, check_stored, place_mistakes


def mistakes(*overrides: str) -> list[str]:
    return list(place_mistakes(compose(overrides)))


def test_places_that_can_be_written_are_no_mistakes(tmp_path: Path) -> None:
    assert mistakes(f"output_dir={tmp_path}/not/yet", f"data.cache_dir={tmp_path}/cache") == []
    assert mistakes("task=plan", f"task.output={tmp_path}/not/yet/plan.json") == []
    assert mistakes("task=plan", "task.output=/dev/stdout") == []
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for key, *task in (["output_dir"], ["data.cache_dir"], ["output_dir", "task=prepare"]):
        for value in (file, file / "below"):
            (line,) = mistakes(f"{key}={value}", *task)
            assert line.startswith(f"{key}=")
            assert f"{file} is no folder" in line
        (line,) = mistakes(f"{key}={tmp_path}/{'x' * 300}", *task)
        assert "the name is too long" in line
    (line,) = mistakes("task=plan", f"task.output={tmp_path}")
    assert line.endswith(": cannot be written (is a folder); choose another")
    assert mistakes("task=plan", "task.output='~nobody_here/x'")[0].endswith("(there is no such home); choose another")
    assert mistakes("output_dir='~/runs'") == ["output_dir=~/runs: a home is not looked up; write the whole path"]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_place_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    (line,) = mistakes(f"output_dir={tmp_path}/runs")
    assert f"no permission in {tmp_path}" in line


def test_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = compose(["task=evaluate", "task.run=zzz", f"output_dir={tmp_path}"])
    with pytest.raises(CheckpointError, match=f"run zzz: there are no runs under {tmp_path}"):
        check_stored(config)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("https://evil.example/x", "neither a folder nor the name of a model on the hub"),
        ("x" * 5000, "neither a folder nor the name of a model on the hub"),
        ("a/b/c", "neither a folder nor the name of a model on the hub"),
        ("/etc/passwd", "is no folder"),
        ("evil/model", "not a local folder, not in the hub's cache, and the hub cannot be reached"),
    ],
)
def test_name_that_no_model_answers_to_is_refused(name: str, said: str) -> None:
    model = compose(["model=flan_t5_small"]).model.model_copy(update={"name": name})
    with pytest.raises(ModelError, match=said):
        check_base(model)
    check_base(model.model_copy(update={"pretrained": False}))
