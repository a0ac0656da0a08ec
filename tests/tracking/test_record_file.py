from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipe_exp.errors import CheckpointError
from recipe_exp.tracking import find_run, list_runs
from recipe_exp.tracking.record_file import MAX_RECORD_BYTES, read_record

RECORD = {"run_id": "20261122-145736-gotf", "run_name": "full", "kind": "run", "status": "finished", "created": 1.5}
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just([1]) | st.just({"a": 1})
)


def write(folder: Path, text: str | bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = text.encode() if isinstance(text, str) else text
    (folder / "run.json").write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run_id", "../../x"),
        ("run_id", "\x1b[31m"),
        ("run_id", 5),
        ("run_id", None),
        ("run_name", ["x"]),
        ("status", 5),
        ("created", None),
        ("created", "yesterday"),
        ("created", True),
        ("created", float("nan")),
        ("created", 10**400),
        ("executions", "x"),
        ("mlflow", []),
        ("machinery", "cpu"),
        ("best", 3),
        ("host", {}),
    ],
)
def test_field_of_another_type_is_named(tmp_path: Path, field: str, value: object) -> None:
    folder = write(tmp_path / "run", json.dumps({**RECORD, field: value}))
    with pytest.raises(CheckpointError) as caught:
        read_record(folder)
    assert str(caught.value).startswith(f"{folder / 'run.json'}: {field}=")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", "[]", "5", "[" * 100_000, b"\xff\xfe{}", "{", " " * (MAX_RECORD_BYTES + 1)])
def test_file_that_is_no_record_is_one_line(tmp_path: Path, text: str | bytes) -> None:
    folder = write(tmp_path / "run", text)
    with pytest.raises(CheckpointError) as caught:
        read_record(folder)
    assert str(caught.value).startswith(f"{folder / 'run.json'}: ")
    assert "\n" not in str(caught.value)


def test_pipe_that_nobody_writes_to_holds_nothing_up(tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "runs" / "20261122-145736-gotf-full"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "run.json")
    with pytest.raises(CheckpointError, match=r"cannot be read .is no regular file."):
        read_record(folder)
    assert list_runs(tmp_path / "outputs") == []
    with pytest.raises(CheckpointError, match="is no regular file"):
        find_run(tmp_path / "outputs", "20261122-145736-gotf")


def test_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    read = read_record(write(tmp_path / "run", json.dumps(RECORD)))
    assert read is not None
    assert {key: read[key] for key in RECORD} == RECORD
    assert read_record(tmp_path) is None


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*RECORD, "step", "mlflow", "executions", "best", "data", "zzz"]), VALUES))
def test_one_damaged_run_never_stops_the_others(tmp_path: Path, fields: dict[str, Any]) -> None:
    runs = tmp_path / "outputs" / "runs"
    write(runs / "20261122-145736-gotf-full", json.dumps(RECORD))
    write(runs / "20261122-145737-abcd-other", json.dumps({**RECORD, "run_id": "20261122-145737-abcd", **fields}))
    assert "20261122-145736-gotf" in [folder.run_id for folder in list_runs(tmp_path / "outputs")]


@pytest.mark.parametrize("reference", ["x" * 5000, "\x1b[31m", "../" * 2000, "*", "[", "/dev/zero", "a\nerror: b"])
def test_strange_references_are_one_readable_line(tmp_path: Path, reference: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        find_run(tmp_path, reference)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
