from __future__ import annotations

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.reports.run_diff import diff_runs
from recipe_exp.reports.run_summary import Best, RunSummary


def summary(name: str, **fields: Any) -> RunSummary:
    return RunSummary(name=name, status="finished", run_id=name, **fields)


def provenance(**fields: Any) -> dict[str, Any]:
    git = {"commit": "a" * 40, "branch": "main", "patch": ""} | fields.pop("git", {})
    return {"provenance": {"git": git, "packages": {"torch": "2.0"}, "python": "3.11"} | fields}


def named(found: Any, title: str) -> dict[str, tuple[str, str, str]]:
    return {each.name: (each.first, each.second, each.effect) for each in found.parts[title]}


def test_a_setting_says_what_it_can_change() -> None:
    first = summary("a", settings={"seed": 0, "hardware.num_threads": 1, "run_name": "a", "training.num_epochs": 3})
    second = summary("b", settings={"seed": 1, "hardware.num_threads": 2, "run_name": "b", "training.num_epochs": 3})
    assert named(diff_runs(first, second), "configuration") == {
        "seed": ("0", "1", "numbers"),
        "hardware.num_threads": ("1", "2", "last digits"),
        "run_name": ("a", "b", "nothing"),
    }


def test_data_code_packages_and_machine_are_compared() -> None:
    first = {
        **provenance(git={"patch": "diff --git a/x b/x\n-one\n+two\n"}),
        "data": {"data_fingerprint": "1" * 64, "num_examples": {"train": 1000}},
        "machinery": {"precision": "fp32", "num_threads": 1, "memory_bytes": 1},
    }
    second = {
        **provenance(
            git={"commit": "b" * 40, "patch": "diff --git a/x b/x\n-one\n+three\n"}, packages={"torch": "2.1"}
        ),
        "data": {"data_fingerprint": "2" * 64, "num_examples": {"train": 1001}},
        "machinery": {"precision": "bf16", "num_threads": 2, "memory_bytes": 2},
    }
    found = diff_runs(summary("a", record=first), summary("b", record=second))
    assert named(found, "data") == {
        "contents of the files": ("1" * 12, "2" * 12, "numbers"),
        "recipes to train": ("1,000", "1,001", "numbers"),
    }
    assert named(found, "code") == {
        "commit": ("a" * 12, "b" * 12, "perhaps"),
        "uncommitted changes": ("3 lines of patch in 1 files", "3 lines of patch in 1 files, others", "perhaps"),
    }
    assert named(found, "packages") == {"torch": ("2.0", "2.1", "last digits")}
    assert named(found, "machine") == {
        "precision": ("fp32", "bf16", "numbers"),
        "num_threads": ("1", "2", "last digits"),
    }
    assert [line for line in found.patches if line.startswith(("+", "-"))] == [
        "--- first",
        "+++ second",
        "-+two",
        "++three",
    ]


def test_the_first_value_that_differs_is_named() -> None:
    first = summary("a", series={"train/loss": ((2, 1.0), (4, 0.5)), "eval/loss": ((3, math.nan),)})
    second = summary("b", series={"train/loss": ((2, 1.0), (4, 0.5000001)), "eval/loss": ((3, math.nan), (6, 1.0))})
    found = diff_runs(first, second)
    assert (found.num_equal_points, found.num_common_points, found.first_unequal) == (2, 3, ("train/loss", 4))
    assert found.conclusion == "numbers differ from step 4 on (train/loss), and nothing explains it"
    assert diff_runs(first, first).conclusion == "all 3 logged values that both runs have are equal to the last bit"


def test_the_cause_is_what_can_change_numbers_before_what_only_rounds() -> None:
    series = {"train/loss": ((1, 1.0),)}, {"train/loss": ((1, 2.0),)}
    settings: tuple[dict[str, Any], ...] = (
        {"seed": 0, "hardware.num_threads": 1},
        {"seed": 1, "hardware.num_threads": 2},
    )
    runs = [summary("x", series=each, settings=keys) for each, keys in zip(series, settings, strict=True)]
    assert diff_runs(*runs).conclusion == "numbers differ from step 1 on (train/loss); they differ in seed"
    same_seed = summary("x", series=series[1], settings={"seed": 0, "hardware.num_threads": 2})
    assert diff_runs(runs[0], same_seed).conclusion.endswith("only how sums round differs: hardware.num_threads")


def test_what_the_machine_took_is_no_number_of_a_run() -> None:
    first = summary(
        "a", series={"train/recipes_per_second": ((1, 10.0),), "machinery/x": ((1, 1.0),), "train/loss": ((1, 1.0),)}
    )
    second = summary(
        "b", series={"train/recipes_per_second": ((1, 20.0),), "machinery/x": ((1, 2.0),), "train/loss": ((1, 1.0),)}
    )
    found = diff_runs(first, second)
    assert (found.num_equal_points, found.num_common_points, found.first_unequal) == (1, 1, None)


def test_metrics_stand_beside_each_other() -> None:
    best = Best("eval/loss", 1.0, 3)
    first = summary("a", best=best, series={"eval/loss": ((3, 1.0), (6, 1.5)), "eval/bleu": ((3, 2.0),)})
    second = summary("b", best=best, series={"eval/loss": ((3, 1.0),)})
    rows = {row.name: (row.first, row.second) for row in diff_runs(first, second).metrics}
    assert rows["best eval/loss"] == (1.0, 1.0)
    assert rows["eval/loss"] == (1.5, 1.0)
    assert rows["eval/bleu"][0] == 2.0
    assert math.isnan(rows["eval/bleu"][1])


@given(st.dictionaries(st.sampled_from(["seed", "run_name", "training.batch_size", "hardware.device"]), st.integers()))
def test_a_run_does_not_differ_from_itself(settings: dict[str, int]) -> None:
    one = summary("a", settings=settings, record=provenance(), series={"eval/loss": ((1, 1.0),)})
    found = diff_runs(one, one)
    assert [each for part in found.parts.values() for each in part] == []
    assert found.first_unequal is None
    assert found.patches == []
