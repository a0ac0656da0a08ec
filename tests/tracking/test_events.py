from __future__ import annotations

import json
import math
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipe_exp.tracking.events import (
    Event,
    EventTail,
    MetricPoint,
    Metrics,
    Params,
    Rewind,
    SeenSteps,
    decode_event,
    decode_metric,
    encode_event,
    encode_metric,
    metric_points,
    read_events,
)

texts = st.text(max_size=20)
events = st.one_of(
    st.builds(Params, time=st.floats(0, 2e9), params=st.dictionaries(texts, texts, max_size=3)),
    st.builds(
        Metrics,
        time=st.floats(0, 2e9),
        step=st.integers(0, 10**6),
        metrics=st.dictionaries(texts, st.floats().map(encode_metric), max_size=3),
    ),
    st.builds(Rewind, time=st.floats(0, 2e9), step=st.integers(0, 10**6)),
)


@given(events)
def test_an_event_is_one_line_of_json_and_comes_back(event: Event) -> None:
    line = encode_event(event)
    assert line.count(b"\n") == 1
    json.loads(line, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))
    assert decode_event(line) == event


@given(st.floats())
def test_every_number_comes_back(value: float) -> None:
    decoded = decode_metric(encode_metric(value))
    assert decoded == value or (math.isnan(decoded) and math.isnan(value))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.lists(events, max_size=8), torn_at=st.integers(1, 10))
def test_a_torn_line_costs_only_itself(tmp_path: Path, written: list[Event], torn_at: int) -> None:
    path = tmp_path / "journal.jsonl"
    torn = encode_event(Rewind(time=0.0, step=7))[:torn_at]
    path.write_bytes(b"".join(map(encode_event, written)) + torn + b"\n" + encode_event(Rewind(1.0, 1)) + torn)
    assert list(read_events(path)) == [*written, Rewind(1.0, 1)]


def test_unknown_events_and_binary_rubbish_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"event": "later", "x": 1}\n\x00\xff\x00\n[]\n\n' + encode_event(Rewind(1.0, 1)))
    tail = EventTail(path)
    assert tail.read() == [Rewind(1.0, 1)]
    assert tail.num_skipped == 4


def test_a_tail_gives_each_event_once_and_waits_for_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    tail = EventTail(path)
    assert tail.read() == []
    first, second = (encode_event(Rewind(float(i), i)) for i in (1, 2))
    path.write_bytes(first + second[:5])
    assert tail.read() == [Rewind(1.0, 1)]
    assert tail.read() == []
    path.write_bytes(first + second)
    assert tail.read() == [Rewind(2.0, 2)]


def test_a_tail_reads_bounded_pieces_and_lines_of_any_length(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    long = Params(0.0, {"name": "x" * 1_000_000})
    path.write_bytes(encode_event(long) * 3)
    tail = EventTail(path)
    assert [len(tail.read()) for _ in range(4)] == [1, 1, 1, 0]


def test_a_tail_stops_where_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    line = encode_event(Rewind(1.0, 1))
    path.write_bytes(line * 4)
    tail = EventTail(path)
    assert len(tail.read(3 * len(line))) == 3
    assert len(tail.read()) == 1


def test_the_first_value_of_a_step_wins_and_steps_in_between_are_kept() -> None:
    logged = [
        Metrics(1.0, 100, {"loss": 1.0}),
        Metrics(2.0, 200, {"loss": 0.5, "eval": "NaN"}),
        Rewind(3.0, 100),
        Metrics(4.0, 150, {"loss": 0.7}),
        Metrics(5.0, 200, {"loss": 0.4, "rouge": 0.1}),
    ]
    points = list(metric_points(logged))
    assert points[0] == MetricPoint("loss", 1.0, 100, 1.0)
    assert math.isnan(points[2].value)
    assert [(p.name, p.step, p.value) for p in points if p.name != "eval"] == [
        ("loss", 100, 1.0),
        ("loss", 200, 0.5),
        ("loss", 150, 0.7),
        ("rouge", 200, 0.1),
    ]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5000))))
def test_seen_steps_are_a_set(pairs: list[tuple[str, int]]) -> None:
    seen, known = SeenSteps(), set()
    for pair in pairs:
        assert seen.add(*pair) == (pair not in known)
        known.add(pair)
