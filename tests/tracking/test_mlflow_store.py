from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.errors import TrackingError
from recipe_exp.tracking.events import DatasetUse, MetricPoint
from recipe_exp.tracking.locations import default_uri
from recipe_exp.tracking.mlflow_store import (
    MlflowRun,
    MlflowStore,
    RunIdentity,
    clean_name,
    is_missing,
    is_refusal,
)


def identity(
    run_id: str = "20260101-000000-aaaa", parent_run_id: str | None = None, is_sweep: bool = False
) -> RunIdentity:
    return RunIdentity(run_id, "small", parent_run_id, 1000.0, {"recipe_exp.kind": "run"}, is_sweep)


def client_of(output_dir: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(default_uri(output_dir))


@pytest.fixture
def store(stored: Path) -> MlflowStore:
    return MlflowStore.open(None, "recipes", stored)


@pytest.fixture
def run(store: MlflowStore) -> MlflowRun:
    return store.find_or_create_run(identity())


def test_a_run_is_found_again_by_our_id(store: MlflowStore, run: MlflowRun, stored: Path) -> None:
    again = MlflowStore.open(None, "recipes", stored).find_or_create_run(identity())
    assert again.run_id == run.run_id
    assert store.find_run("20260101-000000-aaaa") == run.run_id
    assert store.find_run("20260101-000000-bbbb") is None
    entry = client_of(stored).get_run(run.run_id)
    assert (entry.info.run_name, entry.info.start_time, entry.info.status) == ("small", 1_000_000, "RUNNING")


def test_nothing_is_written_outside(stored: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run = MlflowStore.open(None, "others", stored).find_or_create_run(identity())
    source = stored / "file.txt"
    source.write_text("content")
    run.log_artifact(source)
    assert list(elsewhere.iterdir()) == []
    for experiment in client_of(stored).search_experiments():
        assert experiment.artifact_location.startswith((stored / "mlartifacts").as_uri() + "/")


@pytest.mark.parametrize("first", ["sweep", "trials"])
def test_trials_are_children_of_their_sweep_whoever_comes_first(store: MlflowStore, stored: Path, first: str) -> None:
    sweep = identity("20260101-000000-pppp", is_sweep=True)
    trials = [identity(f"20260101-000000-{name}", sweep.run_id) for name in ("aaaa", "bbbb")]
    stranger = store.find_or_create_run(identity("20260101-000000-cccc", "20260101-000000-qqqq"))
    order = [sweep, *trials] if first == "sweep" else [*trials, sweep]
    runs = {each.run_id: store.find_or_create_run(each).run_id for each in order}
    parent = runs.pop(sweep.run_id)
    client = client_of(stored)
    assert {client.get_run(run).data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent}
    assert "mlflow.parentRunId" not in client.get_run(stranger.run_id).data.tags


def test_metrics_of_any_number_are_stored_once(run: MlflowRun, stored: Path) -> None:
    points = [MetricPoint("train/loss", 1.0 / (step + 1), step, 1000.0 + step) for step in range(1500)]
    odd = [MetricPoint("odd", value, i, 1.0) for i, value in enumerate((math.nan, math.inf, -math.inf))]
    for _ in range(2):
        run.log_metrics(points)
        run.log_metrics(odd)
    history = client_of(stored).get_metric_history(run.run_id, "train/loss")
    assert [(m.step, m.value, m.timestamp) for m in history] == [
        (p.step, p.value, round(p.time * 1000)) for p in points
    ]
    values = [m.value for m in client_of(stored).get_metric_history(run.run_id, "odd")]
    assert math.isnan(values[0])
    assert values[1] > 1e300
    assert values[2] < -1e300


def test_params_keep_their_first_value_and_show_a_later_one(store: MlflowStore, run: MlflowRun, stored: Path) -> None:
    params = {f"group.name_{i}": str(i) for i in range(250)} | {"long": "x" * 9000, "bad\nname": "v", "none": ""}
    run.log_params(params)
    again = store.find_or_create_run(identity())
    again.log_params(params)
    again.log_params({"group.name_7": "8"})
    data = client_of(stored).get_run(run.run_id).data
    assert len(data.params) == 253
    assert data.params["group.name_7"] == "7"
    assert data.tags["changed.group.name_7"] == "8"
    assert data.params["long"].endswith("... (cut)")
    assert data.params["bad_name"] == "v"
    assert [name for name in data.tags if name.startswith("changed.")] == ["changed.group.name_7"]


def test_a_dataset_is_an_input(run: MlflowRun, stored: Path) -> None:
    event = DatasetUse(1.0, "recipes", "d" * 64, {"num_recipes": 5}, "training", "http://me:hunter2@host/r")
    run.log_dataset(event)
    run.log_dataset(event)
    (entry,) = client_of(stored).get_run(run.run_id).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("recipes", "d" * 36)
    assert json.loads(entry.dataset.profile) == {"num_recipes": 5, "fingerprint": "d" * 64}
    assert "hunter2" not in entry.dataset.source
    assert {tag.key: tag.value for tag in entry.tags} == {"mlflow.data.context": "training"}


def test_a_run_is_ended_and_reopened(store: MlflowStore, run: MlflowRun, stored: Path) -> None:
    for status, expected in (("interrupted", "KILLED"), ("failed", "FAILED"), ("finished", "FINISHED")):
        run.set_status(status, 2000.5)  # type: ignore[arg-type]
        info = client_of(stored).get_run(run.run_id).info
        assert (info.status, info.end_time) == (expected, 2_000_500)
    store.find_or_create_run(identity()).set_status("running", 3000.0)
    assert client_of(stored).get_run(run.run_id).info.status == "RUNNING"


def test_a_large_artifact_is_linked_and_a_small_one_copied(run: MlflowRun, stored: Path) -> None:
    large, small = stored / "model.safetensors", stored / "config.yaml"
    large.write_bytes(b"0" * 2_000_000)
    small.write_text("a: 1")
    for _ in range(2):
        run.log_artifact(large, "model")
        run.log_artifact(small)
    root = stored / "mlartifacts" / "recipes" / run.run_id / "artifacts"
    assert (root / "model" / "model.safetensors").samefile(large)
    assert (root / "config.yaml").read_text() == "a: 1"
    assert not (root / "config.yaml").samefile(small)
    assert {entry.path for entry in client_of(stored).list_artifacts(run.run_id)} == {"model", "config.yaml"}
    assert run.has_artifact("model", "model.safetensors", 2_000_000)
    assert not run.has_artifact("model", "model.safetensors", 1)
    large.unlink()
    large.write_bytes(b"1" * 2_000_000)
    run.log_artifact(large, "model")
    assert (root / "model" / "model.safetensors").read_bytes()[:1] == b"1"


def test_where_links_are_impossible_files_are_copied(
    run: MlflowRun, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    large = stored / "model.safetensors"
    large.write_bytes(b"0" * 2_000_000)
    run.log_artifact(large)
    assert run.has_artifact(None, "model.safetensors", 2_000_000)


def test_a_moved_store_finds_its_artifacts(run: MlflowRun, stored: Path, tmp_path: Path) -> None:
    source = stored / "file.txt"
    source.write_text("content")
    run.log_artifact(source)
    moved = tmp_path / "moved here"
    shutil.move(stored, moved)
    store = MlflowStore.open(None, "recipes", moved)
    again = store.find_or_create_run(identity())
    assert again.run_id == run.run_id
    assert again.has_artifact(None, "file.txt", 7)
    again.log_artifact(moved / "file.txt", "more")
    assert again.has_artifact("more", "file.txt", 7)
    assert not stored.exists()


def test_a_deleted_experiment_is_one_line(stored: Path, store: MlflowStore) -> None:
    client_of(stored).delete_experiment(store.experiment_id)
    with pytest.raises(TrackingError, match=r"tracking\.experiment=recipes: was deleted"):
        MlflowStore.open(None, "recipes", stored)


OPEN = """
import sys
from pathlib import Path
from recipe_exp.tracking.mlflow_store import MlflowStore
MlflowStore.open(None, "recipes", Path(sys.argv[1]))
"""


@pytest.mark.parametrize("num_bytes", [0, 50_000, 200_000])
def test_a_kill_while_the_database_is_made_leaves_none_that_cannot_be_opened(tmp_path: Path, num_bytes: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path)])
    try:
        while not any(made.stat().st_size >= num_bytes for made in tmp_path.glob("*mlflow.db*tmp")):
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    store = MlflowStore.open(None, "recipes", tmp_path)
    assert store.find_or_create_run(identity()).run_id
    assert not list(tmp_path.glob(".*.tmp*"))


def test_refusals_are_told_from_outages(run: MlflowRun) -> None:
    from mlflow.exceptions import MlflowException
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import JSONDecodeError

    with pytest.raises(MlflowException) as caught:
        run._client.log_metric(run.run_id, "bad\nname", 1.0)
    assert is_refusal(caught.value)
    assert is_refusal(FileNotFoundError("gone"))
    outages = [NoConnection("x"), JSONDecodeError("x", "", 0), OSError(28, "full"), MlflowException("busy")]
    assert not any(is_refusal(error) for error in outages)
    with pytest.raises(MlflowException) as caught:
        run._client.set_tag("0" * 32, "a", "b")
    assert is_missing(caught.value)


@given(st.text(max_size=300))
def test_every_cleaned_name_is_accepted_and_stays(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    cleaned = clean_name(name)
    _validate_metric_name(cleaned)
    assert clean_name(cleaned) == cleaned


def test_ordinary_names_are_not_changed() -> None:
    for name in ("eval/rougeL", "training.optimizer.kind", "system/gpu_0_power_watts", "a b:c-d"):
        assert clean_name(name) == name
