"""What a run came to in the end: everything that two runs of one configuration must share, bit for bit."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe_exp.tracking.machine_metrics import MACHINE_METRICS

RUN_ID = re.compile(r"\d{8}-\d{6}-[a-z2-7]{4}")
FINGERPRINT = re.compile(r"[0-9a-f]{32}")

# What the tracker keeps is looked at by itself; PyTorch and torchrun leave folders of their own behind.
_NOT_COMPARED = re.compile(r"mlflow|mlartifacts|uploader|system\.jsonl|torchinductor|torchelastic")


@dataclass(frozen=True)
class Outcome:
    """All of a finished run that must not depend on how often it was killed.

    Attributes:
        tree: every path below the folders `outputs`, `cache` and `temporary`, without the run's own id.
        tensors: hash of every file of weights and optimizer state, by path.
        states: `state.json` of every checkpoint, without rates and times.
        metrics: every logged point but the rates.
        samples: `samples.jsonl`.
        record: what `run.json` says of the result.
    """

    tree: tuple[str, ...]
    tensors: dict[str, str]
    states: dict[str, Any]
    metrics: list[tuple[int, dict[str, Any]]]
    samples: list[str]
    record: dict[str, Any]


def the_run(folder: Path) -> Path:
    """The one run folder of `folder`.

    Raises:
        AssertionError: there is not exactly one.
    """
    runs = sorted((folder / "outputs" / "runs").iterdir())
    assert len(runs) == 1, "\n".join(f"{run.name}: {sorted(path.name for path in run.iterdir())}" for run in runs)
    return runs[0]


def read_outcome(folder: Path) -> Outcome:
    """Reads the outcome of the one run of a folder."""
    run = the_run(folder)
    record = json.loads((run / "run.json").read_text())
    keys = ("status", "step", "stop_reason", "best", "total_steps", "machinery", "data", "kind", "error")
    files = sorted(path for path in run.rglob("*") if path.is_file())
    return Outcome(
        tree=tuple(_tree(folder)),
        tensors={
            str(file.relative_to(run)): _hash(file, run)
            for file in files
            if file.suffix == ".safetensors" or file.parent.name == "model"
        },
        states={str(file.relative_to(run)): _state(file) for file in files if file.name == "state.json"},
        metrics=metric_series(run),
        samples=(run / "samples.jsonl").read_text().splitlines(),
        record={key: record.get(key) for key in keys},
    )


def _hash(file: Path, run: Path) -> str:
    """Hash of a file's content, in which the run folder may be named: an adapter says where its base is."""
    return hashlib.sha256(file.read_bytes().replace(str(run).encode(), b"RUN")).hexdigest()


def metric_series(run: Path) -> list[tuple[int, dict[str, Any]]]:
    """Every logged point but rates and memory, which no two runs share."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        (line["step"], {name: value for name, value in line["metrics"].items() if name not in MACHINE_METRICS})
        for line in lines
        if "machinery/actual_peak_bytes" not in line["metrics"]
    ]


def assert_same(outcome: Outcome, expected: Outcome) -> None:
    """Compares part by part.

    Raises:
        AssertionError: naming what differs.
    """
    extra, missing = sorted(set(outcome.tree) - set(expected.tree)), sorted(set(expected.tree) - set(outcome.tree))
    differences = {
        "run.json": _difference(outcome.record, expected.record),
        "metrics.jsonl": _difference(dict(enumerate(outcome.metrics)), dict(enumerate(expected.metrics))),
        "samples.jsonl": _difference(dict(enumerate(outcome.samples)), dict(enumerate(expected.samples))),
        "state.json": _difference(outcome.states, expected.states),
        "tensors": _difference(outcome.tensors, expected.tensors),
        "left over": extra,
        "missing": missing,
    }
    found = {name: difference for name, difference in differences.items() if difference}
    assert not found, json.dumps(found, indent=1, default=str)


def _difference(now: dict[Any, Any], then: dict[Any, Any]) -> dict[str, str]:
    names = [name for name in {**then, **now} if now.get(name, "absent") != then.get(name, "absent")]
    return {str(name): f"{then.get(name, 'absent')} -> {now.get(name, 'absent')}"[:200] for name in names}


def _tree(folder: Path) -> Iterator[str]:
    for name in ("outputs", "cache", "temporary"):
        for path in sorted((folder / name).rglob("*")):
            relative = RUN_ID.sub("RUN", str(path.relative_to(folder)))
            if not _NOT_COMPARED.search(relative):
                yield FINGERPRINT.sub("FINGERPRINT", relative)


def _state(file: Path) -> Any:
    """All of `state.json` but what may differ freely: the configuration, of which the numbers speak, and times."""
    state = json.loads(file.read_text())
    state.pop("config")
    state["callbacks"].get("MetricsCallback", {}).pop("seconds", None)
    state["callbacks"] = {name: own for name, own in state["callbacks"].items() if own}
    return state


@dataclass(frozen=True)
class TrackedRun:
    """What MLflow's database holds of a run.

    Attributes:
        statuses: of every run in the database.
        points: how often each metric was stored for each step; the machine's own metrics are left out.
    """

    statuses: list[str]
    points: dict[tuple[str, int], int]


def read_tracked(folder: Path) -> TrackedRun:
    """Reads the database under a folder's `outputs`."""
    (database,) = (folder / "outputs").glob("*.db")
    with closing(sqlite3.connect(database)) as connection:
        statuses = [status for (status,) in connection.execute("SELECT status FROM runs")]
        rows = connection.execute("SELECT key, step, COUNT(*) FROM metrics GROUP BY key, step").fetchall()
    return TrackedRun(
        statuses, {(key, step): count for key, step, count in rows if not key.startswith(("system/", "machinery/"))}
    )


def assert_tracked_once(folder: Path, status: str) -> None:
    """Compares the database with `metrics.jsonl`: one run with this status, and every point once.

    Raises:
        AssertionError: if it is otherwise.
    """
    tracked = read_tracked(folder)
    expected = {(metric, step) for step, metrics in metric_series(the_run(folder)) for metric in metrics}
    # A step that is done again has the same numbers, but other rates, of which all are kept.
    stored = {point: count for point, count in tracked.points.items() if point[0] not in MACHINE_METRICS}
    assert tracked.statuses == [status]
    assert (sorted(expected - set(stored)), sorted(set(stored) - expected)) == ([], [])
    assert [point for point, count in stored.items() if count != 1] == []


def read_cache(folder: Path) -> dict[str, str]:
    """Hash of every file of prepared data and its tokens, by path; memory of dates and scores is left out."""
    caches = (folder / "cache").iterdir()
    folders = [path for path in caches if FINGERPRINT.fullmatch(path.name.removeprefix("prepared-"))]
    assert len(folders) == 2, "the splits and their tokens"
    files = (path for each in folders for path in each.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}
