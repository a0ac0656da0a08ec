from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from recipe_exp.errors import ConfigError
from recipe_exp.reports.run_summary import Best, read_series, read_summary
from recipe_exp.tracking import Journal, RunFolder

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.mark.parametrize("version", ["schema_1", "schema_2"])
def test_runs_of_every_version_are_read(version: str, tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / version, tmp_path / "outputs")
    paths = sorted((tmp_path / "outputs" / "runs").glob("*-full"))
    assert paths
    found = read_summary(RunFolder.open(paths[0]))
    record = json.loads((paths[0] / "run.json").read_text())
    assert (found.name, found.status, found.step) == (record["run_name"], record["status"], record["step"])
    assert found.settings["training.batch_size"] == 16
    assert "tracking.enabled" in found.settings
    assert "tracking.enabled" not in found.keys
    assert found.best == Best(**{name: record["best"][name] for name in ("metric", "value", "step")})
    assert found.last_evaluation["eval/loss"] == found.series["eval/loss"][-1][1]


def test_a_series_keeps_the_last_value_of_each_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 4, "metrics": {"a": 1.0}},
        {"step": 2, "metrics": {"a": None, "b": 3, "c": "many"}},
        {"step": 4, "metrics": {"a": 2}},
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"step": 9, "metr')
    found = read_series(path)
    assert found.keys() == {"a", "b"}, "what is no number is passed over"
    assert found["b"] == ((2, 3.0),)
    assert found["a"][1] == (4, 2.0)
    assert math.isnan(found["a"][0][1])
    assert read_series(tmp_path / "absent.jsonl") == {}


def test_time_between_executions_is_not_counted(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, run_name="run", command=[])
    with pytest.raises(ConfigError):
        read_summary(folder)
    shutil.copy(next((FIXTURES / "schema_2" / "runs").glob("*-full")) / "config.yaml", folder.config_path)
    assert read_summary(folder).seconds is None
    events = [("running", 10.0), ("interrupted", 12.5), ("running", 100.0), ("finished", 101.0)]
    lines = [{"event": "status", "time": time, "status": status} for status, time in events]
    folder.journal_path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    assert read_summary(folder).seconds == 3.5
    journal = Journal(folder)
    journal.status("running")
    journal.close()
    assert read_summary(folder).seconds == 3.5
