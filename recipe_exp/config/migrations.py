"""What earlier versions stored, as this one reads it: the only place that knows of them.

Version 1 is that of the first release. `config.yaml` needs no step: a key that came later has a default, and none was
renamed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from recipe_exp.errors import CheckpointError

SCHEMA_VERSION = 2
"""Of run folders and checkpoints that are written; raise it when what is stored changes its meaning."""

Stored: TypeAlias = dict[str, Any]


def migrate_record(record: Stored, place: str) -> Stored:
    """Returns a `run.json` of any earlier version as this one would have written it.

    Args:
        record: as it was read.
        place: names it in messages.

    Raises:
        CheckpointError: if a later version wrote it.
    """
    return _migrate(record, _RECORD_STEPS, place)


def migrate_state(state: Stored, place: str) -> Stored:
    """Returns a checkpoint's `state.json` of any earlier version as this one would have written it.

    Args:
        state: as it was read.
        place: names it in messages.

    Raises:
        CheckpointError: if a later version wrote it.
    """
    return _migrate(state, _STATE_STEPS, place)


def _migrate(stored: Stored, steps: tuple[Callable[[Stored], Stored], ...], place: str) -> Stored:
    version = stored.get("schema_version", 1)
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise CheckpointError(
            f"{place}: of schema version {version}, and this recipe_exp reads versions up to {SCHEMA_VERSION}; "
            "install the one that wrote it"
        )
    for step in steps[version - 1 :]:
        stored = step(stored)
    return {**stored, "schema_version": SCHEMA_VERSION}


def _record_with_history(record: Stored) -> Stored:
    """Version 2 tells over how many steps the schedule is laid, and with which fingerprints a run was executed."""
    data = record.get("data")
    if "total_steps" in record:
        record = {**record, "schedule_steps": record["total_steps"]}
    if isinstance(data, dict):
        fingerprints = {"data": data.get("fingerprint"), "tokenizer": data.get("tokenizer"), "base": None}
        record = {**record, "fingerprints": [fingerprints]}
    return record


def _state_with_skipped_steps_of_trainer(state: Stored) -> Stored:
    """Version 2 counts skipped steps with the other steps, and knows the base under an adapter."""
    metrics = state.get("callbacks", {}).get("MetricsCallback", {})
    trainer = {**state.get("trainer", {}), "num_skipped_steps": metrics.get("num_skipped_steps", 0)}
    return {**state, "trainer": trainer, "fingerprints": {**state.get("fingerprints", {}), "base": None}}


_RECORD_STEPS = (_record_with_history,)
_STATE_STEPS = (_state_with_skipped_steps_of_trainer,)
