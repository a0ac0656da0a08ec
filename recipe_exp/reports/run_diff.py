"""In what two runs differ, part by part, and whether that can change their numbers."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from recipe_exp.config.messages import show_value
from recipe_exp.config.relevance import differences, is_free
from recipe_exp.reports.run_summary import RunSummary, Series
from recipe_exp.tracking import named_facts
from recipe_exp.tracking.machine_metrics import MACHINE_METRICS

Effect: TypeAlias = Literal["numbers", "perhaps", "last digits", "nothing"]
"""What a difference can change: the run's numbers; perhaps them, as code can; how sums round; nothing of that."""
EFFECTS: tuple[Effect, ...] = ("numbers", "perhaps", "last digits", "nothing")

# These decide how sums are cut and rounded, and nothing of what is summed.
_ROUNDING_KEYS = ("hardware.", "model.attention", "model.gradient_checkpointing")
_NUMBERS_OF_MACHINERY = ("precision", "num_processes", "device")
_ROUNDING_OF_MACHINERY = ("num_threads", "attention", "micro_batch_tokens", "device_name")
_MACHINE = ("machinery/", "system/")
_SHORT = 12
_FINGERPRINTS = {"data": "tokens", "tokenizer": "tokenizer", "base": "base weights"}


@dataclass(frozen=True)
class Difference:
    """One thing in which two runs differ.

    Attributes:
        name: of the thing.
        first: what the first run has; empty for nothing.
        second: the same of the second.
        effect: what it can change.
    """

    name: str
    first: str
    second: str
    effect: Effect


@dataclass(frozen=True)
class MetricRow:
    """One metric of both runs; NaN where a run has none."""

    name: str
    first: float
    second: float


@dataclass(frozen=True)
class RunDiff:
    """Everything in which two runs differ.

    Attributes:
        parts: by title, what differs; parts without a difference are empty.
        unknown: titles of parts that neither run knows anything of.
        metrics: the best value and those of the last evaluation, equal ones too.
        num_equal_points: logged values of both runs that are equal to the last bit, without what the machine took.
        num_common_points: logged values that both runs have.
        first_unequal: metric and step of the first value that differs; None if none does.
        patches: lines in which the uncommitted changes of the code differ, as a unified diff.
    """

    parts: Mapping[str, Sequence[Difference]]
    unknown: frozenset[str]
    metrics: Sequence[MetricRow]
    num_equal_points: int
    num_common_points: int
    first_unequal: tuple[str, int] | None
    patches: Sequence[str]

    def with_effect(self, effect: Effect) -> list[Difference]:
        """Returns the differences of all parts that can change so much."""
        return [each for part in self.parts.values() for each in part if each.effect == effect]

    @property
    def conclusion(self) -> str:
        """Whether the numbers are the same, and what explains it if they are not."""
        causes = ", ".join(each.name for effect in EFFECTS[:2] for each in self.with_effect(effect))
        if self.first_unequal is None and self.num_common_points:
            equal = f"all {self.num_common_points:,} logged values that both runs have are equal to the last bit"
            return f"{equal}, although they differ in {causes}" if causes else equal
        where = "no logged value is common to both"
        if self.first_unequal is not None:
            metric, step = self.first_unequal
            where = f"numbers differ from step {step:,} on ({metric})"
        if causes:
            return f"{where}; they differ in {causes}"
        rounding = ", ".join(each.name for each in self.with_effect("last digits"))
        return f"{where}; only how sums round differs: {rounding}" if rounding else f"{where}, and nothing explains it"


def diff_runs(first: RunSummary, second: RunSummary) -> RunDiff:
    """Returns in what two runs differ."""
    unequal = sorted(_unequal_points(first.series, second.series), key=lambda point: point[::-1])
    num_common = sum(1 for _ in _common_points(first.series, second.series))
    has_code = any((each.record.get("provenance") or {}).get("git") for each in (first, second))
    return RunDiff(
        unknown=frozenset(() if has_code else ("code",)),
        parts={
            "configuration": _settings(first, second),
            "data": _data(first.record, second.record),
            "code": _code(first.record, second.record),
            "packages": _packages(first.record, second.record),
            "machine": _machine(first.record, second.record),
        },
        metrics=_metrics(first, second),
        num_equal_points=num_common - len(unequal),
        num_common_points=num_common,
        first_unequal=unequal[0] if unequal else None,
        patches=_patch_lines(first.record, second.record),
    )


def _settings(first: RunSummary, second: RunSummary) -> list[Difference]:
    found = [
        Difference(each.key, _shown(each.then), _shown(each.now), _effect_of_key(each.key))
        for each in differences(first.settings, second.settings)
    ]
    return sorted(found, key=lambda each: EFFECTS.index(each.effect))


def _shown(value: Any) -> str:
    return "" if value is ... else show_value(value)


def _effect_of_key(key: str) -> Effect:
    if key.startswith(_ROUNDING_KEYS):
        return "last digits"
    return "nothing" if is_free(key) else "numbers"


def _data(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    then, now = _data_facts(first), _data_facts(second)
    return _differing(then, now, dict.fromkeys([*then, *now], "numbers"))


def _data_facts(record: Mapping[str, Any]) -> dict[str, Any]:
    data = record.get("data") or {}
    last = (record.get("fingerprints") or [{}])[-1]
    facts = {"contents of the files": _shortened(data.get("data_fingerprint"))}
    facts |= {name: _shortened(last.get(key)) for key, name in _FINGERPRINTS.items()}
    facts |= {f"recipes to {name}": count for name, count in (data.get("num_examples") or {}).items()}
    return facts


def _code(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    then, now = _code_facts(first), _code_facts(second)
    effects: dict[str, Effect] = {"commit": "perhaps", "uncommitted changes": "perhaps", "branch": "nothing"}
    found = _differing(then, now, effects)
    if _patch(first) != _patch(second) and not any(each.name == "uncommitted changes" for each in found):
        shown = then["uncommitted changes"]
        found.append(Difference("uncommitted changes", shown, f"{shown}, others", "perhaps"))
    return found


def _code_facts(record: Mapping[str, Any]) -> dict[str, Any]:
    git = (record.get("provenance") or {}).get("git") or {}
    patch = _patch(record)
    num_files = sum(line.startswith("diff --git ") for line in patch)
    changes = f"{len(patch):,} lines of patch in {num_files:,} files" if patch else None
    return {"commit": _shortened(git.get("commit")), "branch": git.get("branch"), "uncommitted changes": changes}


def _patch(record: Mapping[str, Any]) -> list[str]:
    git = (record.get("provenance") or {}).get("git") or {}
    return str(git.get("patch") or "").splitlines()


def _patch_lines(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return list(difflib.unified_diff(_patch(first), _patch(second), "first", "second", n=1, lineterm=""))


def _packages(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    then, now = (named_facts(record.get("provenance") or {}) for record in (first, second))
    names = [name for name in (*then, *now) if name != "commit"]
    return _differing(then, now, dict.fromkeys(names, "last digits"))


def _machine(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    then, now = first.get("machinery") or {}, second.get("machinery") or {}
    effects: dict[str, Effect] = dict.fromkeys(_NUMBERS_OF_MACHINERY, "numbers")
    effects |= dict.fromkeys(_ROUNDING_OF_MACHINERY, "last digits")
    return _differing(then, now, effects)


def _differing(then: Mapping[str, Any], now: Mapping[str, Any], effects: Mapping[str, Effect]) -> list[Difference]:
    """What one side does not know of is no difference that could explain anything, but it is shown."""
    values = {name: (_text(then.get(name)), _text(now.get(name))) for name in effects}
    return [Difference(name, *both, effects[name]) for name, both in values.items() if both[0] != both[1]]


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _shortened(value: Any) -> str | None:
    return str(value)[:_SHORT] if value else None


def _metrics(first: RunSummary, second: RunSummary) -> list[MetricRow]:
    rows: list[MetricRow] = []
    if first.best and second.best and first.best.metric == second.best.metric:
        rows.append(MetricRow(f"best {first.best.metric}", first.best.value, second.best.value))
    then, now = first.last_evaluation, second.last_evaluation
    names = [*then, *(name for name in now if name not in then)]
    return rows + [MetricRow(name, then.get(name, math.nan), now.get(name, math.nan)) for name in names]


def _common_points(
    first: Mapping[str, Series], second: Mapping[str, Series]
) -> Iterator[tuple[str, int, float, float]]:
    """Yields what both runs logged; what the machine took is nothing that they computed."""
    for name, points in first.items():
        others = dict(second.get(name, ()))
        if name not in MACHINE_METRICS and not name.startswith(_MACHINE):
            yield from ((name, step, value, others[step]) for step, value in points if step in others)


def _unequal_points(first: Mapping[str, Series], second: Mapping[str, Series]) -> Iterator[tuple[str, int]]:
    for name, step, then, now in _common_points(first, second):
        if then != now and not (math.isnan(then) and math.isnan(now)):
            yield name, step
