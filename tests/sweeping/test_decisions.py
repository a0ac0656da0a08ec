from __future__ import annotations

import pytest

from recipe_exp.config.sweep import SweepConfig
from recipe_exp.sweeping.decisions import Decision, decide, is_settled
from recipe_exp.sweeping.ledger import Ended, TrialRecord, TrialState

RESUME = ("resume=run-1",)


def record_of(state: TrialState, number: int = 1, tokens: int | None = None, used: int | None = None) -> TrialRecord:
    end = None if state in ("not started", "running") else Ended(0.0, "k", state, micro_batch_tokens=used)
    attempts = 0 if state == "not started" else 1
    return TrialRecord("k", number, state=state, owner="p", micro_batch_tokens=tokens, num_attempts=attempts, end=end)


def decision(
    record: TrialRecord, sweep: SweepConfig | None = None, *, owner_lives: bool = False, run_lives: bool | None = False
) -> Decision:
    found = (None, False) if run_lives is None else ("run-1", run_lives)
    return decide(record, sweep or SweepConfig(), lambda _: owner_lives, lambda _: found)


@pytest.mark.parametrize("state", ["done", "pruned"])
def test_results_are_left_alone(state: TrialState) -> None:
    assert decision(record_of(state)) == Decision("leave")


@pytest.mark.parametrize("state", ["killed", "interrupted", "failed", "out of memory"])
def test_what_has_a_run_goes_on_with_it(state: TrialState) -> None:
    assert decision(record_of(state)) == Decision("run", RESUME)
    assert decision(record_of(state), run_lives=None) == Decision("run")


def test_what_never_started_looks_for_no_run() -> None:
    assert decision(record_of("not started")) == Decision("run")


def test_failed_ones_stay_where_that_is_asked_for() -> None:
    assert decision(record_of("failed"), SweepConfig(retry_failed=False)).action == "leave"
    assert decision(record_of("killed"), SweepConfig(retry_failed=False)).action == "run"


def test_a_running_one_is_left_to_a_process_that_lives() -> None:
    assert decision(record_of("running"), owner_lives=True) == Decision("leave")
    assert decision(record_of("running")) == Decision("run", RESUME, was_killed=True)


def test_a_run_that_is_still_ending_is_waited_for() -> None:
    assert decision(record_of("running"), run_lives=True) == Decision("wait")
    assert decision(record_of("interrupted"), run_lives=True) == Decision("wait")


@pytest.mark.parametrize(("used", "expected"), [(1024, 512), (17, 16), (16, 16)])
def test_full_memory_is_tried_again_in_half_the_micro_batch(used: int, expected: int) -> None:
    tokens = f"hardware.micro_batch_tokens={expected}"
    assert decision(record_of("out of memory", used=used)) == Decision("run", (*RESUME, tokens), expected)


def test_the_smaller_micro_batch_stays_when_the_next_attempt_is_interrupted() -> None:
    again = decision(record_of("interrupted", tokens=512, used=512))
    assert again == Decision("run", (*RESUME, "hardware.micro_batch_tokens=512"), 512)
    assert decision(record_of("out of memory", tokens=512, used=512)).micro_batch_tokens == 256


def test_shards_divide_all_trials() -> None:
    shards = [SweepConfig(shard=f"{part}/3") for part in (1, 2, 3)]
    for number in range(1, 10):
        actions = [decision(record_of("not started", number), shard).action for shard in shards]
        assert actions.count("run") == 1
        assert actions.index("run") == (number - 1) % 3


def test_a_sweep_is_settled_when_every_trial_has_a_result() -> None:
    assert is_settled({"a": record_of("done"), "b": record_of("pruned")})
    assert not is_settled({"a": record_of("done"), "b": record_of("failed")})
