from __future__ import annotations

import errno
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recipe_exp.errors import TrackingError
from recipe_exp.tracking import Journal, RunFolder, metric_points, read_events
from recipe_exp.tracking.events import Artifact, DatasetUse, Params, Rewind, StatusChange, Tags


def metric_entries(folder: RunFolder) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.metrics_path.read_text().splitlines()]


def test_every_call_is_on_disk_when_it_returns(folder: RunFolder) -> None:
    journal = Journal(folder)
    journal.params({"training.batch_size": 8, "model.name": "small"})
    journal.tags({"who": "me"})
    journal.artifact(folder.path / "model", "model")
    journal.dataset("recipes", "abc", {"num_recipes": 3}, "training", source="/data")
    journal.status("finished")
    with pytest.raises(ValueError, match="elsewhere"):
        journal.artifact(Path("/elsewhere/file"))
    kinds = [Params, Tags, Artifact, DatasetUse, StatusChange]
    events = list(read_events(folder.journal_path))
    assert [type(event) for event in events] == kinds
    assert events[0].params == {"training.batch_size": "8", "model.name": "small"}  # type: ignore[union-attr]
    assert [e.path for e in events if isinstance(e, Artifact)] == ["model"]
    assert folder.read_record()["status"] == "finished"


def test_going_on_makes_this_process_the_owner(folder: RunFolder) -> None:
    folder.update_record(pid=1, host="another", status="interrupted")
    Journal(folder).status("running")
    record = folder.read_record()
    assert (record["pid"], record["host"]) == (os.getpid(), socket.gethostname())
    assert record["status"] == "running"


def test_metrics_reach_both_files(folder: RunFolder) -> None:
    Journal(folder).metrics(10, {"train/loss": 2.5, "train/grad_norm": 1})
    (entry,) = metric_entries(folder)
    assert entry["step"] == 10
    assert entry["metrics"] == {"train/loss": 2.5, "train/grad_norm": 1.0}
    assert set(entry) == {"step", "time", "metrics"}
    points = list(metric_points(read_events(folder.journal_path)))
    assert [(p.name, p.value, p.step, p.time) for p in points] == [
        ("train/loss", 2.5, 10, entry["time"]),
        ("train/grad_norm", 1.0, 10, entry["time"]),
    ]


def test_values_that_are_not_finite_stay_valid_json(folder: RunFolder) -> None:
    Journal(folder).metrics(0, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})
    for path in (folder.metrics_path, folder.journal_path):
        assert "NaN" not in path.read_text().replace('"NaN"', "")
        assert "Infinity" not in path.read_text().replace('"Infinity"', "").replace('"-Infinity"', "")
    assert metric_entries(folder)[0]["metrics"] == {"a": None, "b": None, "c": None, "d": 1.0}
    values = {p.name: p.value for p in metric_points(read_events(folder.journal_path))}
    assert math.isnan(values["a"])
    assert (values["b"], values["c"], values["d"]) == (math.inf, -math.inf, 1.0)


def test_secrets_do_not_reach_the_journal(folder: RunFolder) -> None:
    journal = Journal(folder)
    journal.params({"hub_token": "abcdefgh", "tracking.uri": "http://me:hunter2@host", "model.name": "small"})
    journal.tags({"note": "use hf_abcdefghijklmnopqrstuvwx please"})
    written = folder.journal_path.read_text()
    for secret in ("abcdefgh", "hunter2", "hf_abc"):
        assert secret not in written
    assert "small" in written


def test_a_negative_step_is_refused(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="step=-1"):
        Journal(folder).metrics(-1, {"a": 1.0})


def test_torn_lines_are_healed_when_the_run_goes_on(folder: RunFolder) -> None:
    Journal(folder).metrics(1, {"a": 1.0})
    for path in (folder.journal_path, folder.metrics_path):
        with path.open("ab") as stream:
            stream.write(b'{"event":"metrics","st')
    Journal(folder).metrics(2, {"a": 2.0})
    assert [entry["step"] for entry in metric_entries(folder)] == [1, 2]
    assert [p.step for p in metric_points(read_events(folder.journal_path))] == [1, 2]


def test_rewinding_abandons_what_came_after_the_checkpoint(folder: RunFolder) -> None:
    first = Journal(folder)
    for step in (10, 20, 30):
        first.metrics(step, {"a": float(step)})
    first.close()
    second = Journal(folder)
    second.rewind(20)
    second.metrics(30, {"a": 31.0})
    assert [(e["step"], e["metrics"]["a"]) for e in metric_entries(folder)] == [(10, 10), (20, 20), (30, 31)]
    events = list(read_events(folder.journal_path))
    assert [event.step for event in events if isinstance(event, Rewind)] == [20]
    assert [(p.step, p.value) for p in metric_points(events)] == [(10, 10.0), (20, 20.0), (30, 30.0)]


def test_what_is_measured_again_at_the_checkpoint_is_recorded_once(folder: RunFolder) -> None:
    first = Journal(folder)
    first.metrics(20, {"train/loss": 2.0})
    first.metrics(20, {"eval/loss": 3.0, "eval/bleu": 1.0})
    first.close()
    second = Journal(folder)
    second.rewind(20)
    second.metrics(20, {"eval/loss": 3.0, "eval/bleu": 1.0})
    second.metrics(20, {"eval/loss": 3.0, "eval/rouge1": 0.5})
    second.metrics(21, {"eval/loss": 4.0})
    assert [(entry["step"], entry["metrics"]) for entry in metric_entries(folder)] == [
        (20, {"train/loss": 2.0}),
        (20, {"eval/loss": 3.0, "eval/bleu": 1.0}),
        (20, {"eval/rouge1": 0.5}),
        (21, {"eval/loss": 4.0}),
    ]


def test_a_full_disk_delays_lines_and_keeps_their_order(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(folder)
    write = os.write
    room = 40

    def write_little(descriptor: int, content: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, bytes(content[:room]))
        room -= written
        return written

    monkeypatch.setattr(os, "write", write_little)
    for step in range(3):
        journal.metrics(step, {"a": 1.0})
    room = 10_000
    journal.metrics(3, {"a": 1.0})
    assert [entry["step"] for entry in metric_entries(folder)] == [0, 1, 2, 3]
    assert [p.step for p in metric_points(read_events(folder.journal_path))] == [0, 1, 2, 3]
    journal.sync()
    room = 0
    journal.metrics(4, {"a": 1.0})
    with pytest.raises(OSError, match="No space left on device") as caught:
        journal.sync()
    assert caught.value.filename == str(folder.journal_path)
    with pytest.raises(TrackingError, match="disk is full"):
        journal.close()


def test_a_full_disk_at_a_rewind_leaves_a_journal_that_goes_on(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(folder)
    for step in range(3):
        journal.metrics(step, {"a": 1.0})

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(OSError, match="No space"):
            journal.rewind(1)
    assert [entry["step"] for entry in metric_entries(folder)] == [0, 1, 2]
    journal.rewind(1)
    journal.metrics(2, {"a": 2.0})
    journal.close()
    assert [entry["metrics"]["a"] for entry in metric_entries(folder)] == [1.0, 1.0, 2.0]


def test_killing_the_writer_loses_nothing(folder: RunFolder) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from recipe_exp.tracking import Journal, RunFolder\n"
        "journal = Journal(RunFolder.open(Path(sys.argv[1])))\n"
        "for step in range(100): journal.metrics(step, {'a': 1.0})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder.path)]).returncode == -9
    assert [entry["step"] for entry in metric_entries(folder)] == list(range(100))
    assert len(list(metric_points(read_events(folder.journal_path)))) == 100


def test_importing_tracking_loads_no_heavy_module() -> None:
    code = (
        "import sys, recipe_exp.tracking, recipe_exp.tracking.uploader\n"
        "print([m for m in ('mlflow', 'torch', 'psutil', 'numpy', 'hydra') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
