from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.errors import TrackingError
from recipe_exp.sweeping.ledger import Ended, Event, Ledger, Planned, Started, TrialState, fold

KEYS = st.sampled_from(["a", "b", "c"])
EVENTS = st.lists(
    st.one_of(
        st.builds(Planned, st.just(0.0), KEYS, st.integers(1, 9), st.just({"seed": "1"}), st.just(["seed=1"])),
        st.builds(Started, st.just(1.0), KEYS, st.sampled_from(["p", "q"]), st.none() | st.just(64)),
        st.builds(Ended, st.just(2.0), KEYS, st.sampled_from(get_args(TrialState)), st.just(1), st.just(2.5)),
    )
)


def planned(key: str, number: int = 1) -> Planned:
    return Planned(0.0, key, number, {}, [])


def write(path: Path, events: list[Event]) -> Ledger:
    ledger = Ledger(path)
    ledger.append(lambda _: events)
    return ledger


@given(EVENTS, st.integers(0, 20))
def test_folding_in_parts_is_folding_at_once(events: list[Event], place: int) -> None:
    assert fold(events[place:], fold(events[:place])) == fold(events)


@given(EVENTS)
def test_records_are_those_that_were_planned_and_keep_their_first_number(events: list[Event]) -> None:
    records = fold(events)
    first = {}
    for event in events:
        if isinstance(event, Planned):
            first.setdefault(event.key, event.number)
    assert {key: record.number for key, record in records.items()} == first


def test_record_follows_its_attempts() -> None:
    events: list[Event] = [
        planned("a"),
        Started(1.0, "a", "p", 64),
        Ended(2.0, "a", "killed", -9, 3.0, run_id="run", run_folder="run-x"),
        Started(3.0, "a", "q"),
        Ended(4.0, "a", "failed", 1, 4.0),
    ]
    record = fold(events)["a"]
    assert (record.state, record.owner, record.num_attempts, record.seconds) == ("failed", "q", 2, 7.0)
    assert record.micro_batch_tokens == 64
    assert record.end is not None
    assert (record.end.exit_code, record.end.run_id, record.end.run_folder) == (1, "run", "run-x")
    assert fold(events[:4])["a"].state == "running"


@settings(deadline=None)  # each line is flushed to the disk
@given(EVENTS, st.data())
def test_a_torn_line_costs_that_line_only(events: list[Event], data: st.DataObject) -> None:
    lines = [msgspec.json.encode(event) + b"\n" for event in events]
    torn = msgspec.json.encode(planned("torn"))[: data.draw(st.integers(1, 30))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ledger.jsonl")
        path.write_bytes(b"".join(lines) + torn)
        ledger = Ledger(path)
        assert ledger.read() == fold(events)
        after = ledger.append(lambda _: [planned("d", 4)])
        assert after == fold([*events, planned("d", 4)]) == Ledger(path).read()


def test_only_what_was_appended_is_read_again(tmp_path: Path) -> None:
    first = write(tmp_path / "ledger.jsonl", [planned("a")])
    other = Ledger(first.path)
    assert list(other.read()) == ["a"]
    first.append(lambda records: [planned("b", len(records) + 1)])
    assert {key: record.number for key, record in other.read().items()} == {"a": 1, "b": 2}
    assert Ledger(tmp_path / "none.jsonl").read() == {}


def take(path: str, name: str) -> None:
    """Takes one trial after the other that nobody has taken."""
    ledger = Ledger(Path(path))
    while True:
        taken: list[str] = []

        def claim(records: object, taken: list[str] = taken) -> list[Started]:
            assert isinstance(records, dict)
            free = next((key for key, record in records.items() if record.owner is None), None)
            taken.extend([free] if free else [])
            return [Started(0.0, free, name)] if free else []

        ledger.append(claim)
        if not taken:
            return


def test_several_processes_take_each_trial_once(tmp_path: Path) -> None:
    ledger = write(tmp_path / "ledger.jsonl", [planned(f"t{number}", number) for number in range(60)])
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=take, args=(str(ledger.path), f"p{number}")) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert {record.num_attempts for record in ledger.read().values()} == {1}


APPENDER = """
import sys
from pathlib import Path
from recipe_exp.sweeping.ledger import Ledger, Planned
ledger = Ledger(Path(sys.argv[1]))
for number in range(100_000):
    ledger.append(lambda records: [Planned(0.0, f"k{number}", number, {"seed": "x" * 500}, [])])
    print(number, flush=True)
"""


def test_what_was_appended_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    process = subprocess.Popen([sys.executable, "-c", APPENDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    said = 19 + len([line for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")])
    process.wait()
    records = Ledger(path).read()
    assert list(records) == [f"k{number}" for number in range(len(records))]
    assert len(records) > said
    after = Ledger(path).append(lambda _: [planned("next")])
    assert list(after)[-1] == "next"


def test_a_disk_that_refuses_is_one_line(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.path.symlink_to(tmp_path / "gone" / "ledger.jsonl")
    with pytest.raises(TrackingError, match="cannot be written"):
        ledger.append(lambda _: [planned("a")])
