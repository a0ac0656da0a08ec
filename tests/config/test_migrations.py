from __future__ import annotations

from typing import Any

import pytest

from recipe_exp.config.migrations import SCHEMA_VERSION, migrate_record, migrate_state
from recipe_exp.errors import CheckpointError


def test_a_first_record_learns_its_schedule_and_its_fingerprints() -> None:
    record = {"run_id": "r", "total_steps": 6, "data": {"fingerprint": "f", "tokenizer": "t", "num_duplicates": 0}}
    before = {**record}
    assert migrate_record(record, "run.json") == {
        **before,
        "schema_version": SCHEMA_VERSION,
        "schedule_steps": 6,
        "fingerprints": [{"data": "f", "tokenizer": "t", "base": None}],
    }
    assert record == before


def test_a_record_of_a_run_that_never_began_stays_empty() -> None:
    assert migrate_record({"schema_version": 1, "run_id": "r"}, "run.json") == {
        "schema_version": SCHEMA_VERSION,
        "run_id": "r",
    }


def test_a_first_checkpoint_learns_who_counts_skipped_steps() -> None:
    state = {
        "trainer": {"step": 3},
        "callbacks": {"MetricsCallback": {"num_skipped_steps": 2, "seconds": 1.0}},
        "fingerprints": {"data": "f", "tokenizer": "t"},
    }
    migrated = migrate_state(state, "step-3")
    assert migrated["trainer"] == {"step": 3, "num_skipped_steps": 2}
    assert migrated["fingerprints"] == {"data": "f", "tokenizer": "t", "base": None}


def test_what_is_current_stays_as_it_is() -> None:
    state: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "trainer": {"num_skipped_steps": 7}, "fingerprints": {}}
    assert migrate_state(state, "step-3") == state
    assert migrate_record(state, "run.json") == state


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 99, 0, -1, "2", None])
@pytest.mark.parametrize("migrate", [migrate_record, migrate_state])
def test_an_unknown_version_is_refused_in_one_line(migrate: Any, version: Any) -> None:
    with pytest.raises(CheckpointError, match="PLACE: of schema version") as caught:
        migrate({"schema_version": version}, "PLACE")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
