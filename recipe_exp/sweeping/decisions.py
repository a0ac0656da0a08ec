"""What becomes of each trial when its sweep goes on: a pure function of the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from recipe_exp.config.sweep import SweepConfig
from recipe_exp.sweeping.ledger import RESULTS, TrialRecord

MIN_MICRO_BATCH_TOKENS = 16


@dataclass(frozen=True)
class Decision:
    """What to do with a trial.

    Attributes:
        action: `run` it, `leave` it as it is, or `wait`, because its last process may still be ending.
        overrides: what the attempt's command line says beside the trial's own.
        micro_batch_tokens: what the attempt is made with after full memory; None as the trial says.
        was_killed: whether its last attempt ended without anybody seeing it.
    """

    action: Literal["run", "leave", "wait"]
    overrides: tuple[str, ...] = ()
    micro_batch_tokens: int | None = None
    was_killed: bool = False


def decide(
    record: TrialRecord,
    sweep: SweepConfig,
    is_alive: Callable[[str | None], bool],
    find_run: Callable[[TrialRecord], tuple[str | None, bool]],
) -> Decision:
    """Returns what to do with a trial.

    Args:
        record: what the ledger says of it.
        sweep: settings of the sweep.
        is_alive: whether the process that took a trial lives.
        find_run: returns the run id of the trial's run that can be continued, None without one, and whether a process
            is at work on the trial.
    """
    number, count = sweep.part
    if record.state in RESULTS or (record.number - 1) % count != number - 1:
        return Decision("leave")
    if record.state == "failed" and not sweep.retry_failed:
        return Decision("leave")
    is_taken = record.state == "running"
    if is_taken and is_alive(record.owner):
        return Decision("leave")
    run_id, is_at_work = find_run(record) if record.num_attempts else (None, False)
    if is_at_work:
        return Decision("wait")
    micro_batch_tokens = _micro_batch_tokens(record)
    overrides: tuple[str, ...] = (f"resume={run_id}",) if run_id is not None else ()
    if micro_batch_tokens is not None:
        overrides += (f"hardware.micro_batch_tokens={micro_batch_tokens}",)
    return Decision("run", overrides, micro_batch_tokens, was_killed=is_taken)


def is_settled(records: Mapping[str, TrialRecord]) -> bool:
    """Returns whether every trial has a result."""
    return all(record.state in RESULTS for record in records.values())


def _micro_batch_tokens(record: TrialRecord) -> int | None:
    """Half of what was too much, or what a smaller one was retried with before it was interrupted."""
    if record.state != "out of memory" or record.end is None or record.end.micro_batch_tokens is None:
        return record.micro_batch_tokens
    return max(record.end.micro_batch_tokens // 2, MIN_MICRO_BATCH_TOKENS)
