"""Hostile data and models: refused in one line before PyTorch is loaded where they can be, and never obeyed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hostile_cases import GOOD_ROWS, RECIPES, SMALL, TINY, Arena, Case, check, check_errors, check_writes, params
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SHARE_OF_THE_FAST_PART = 4
FULL = pytest.mark.faults_full


def fast_and_full(name: str) -> list[Any]:
    """Returns the early cases of a table, most of them for the long part."""
    return [
        case if number % SHARE_OF_THE_FAST_PART == 0 else pytest.param(*case.values, id=case.id, marks=FULL)
        for number, case in enumerate(params(name, late=False))
    ]


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """Runs commands in a process that has not loaded PyTorch."""
    arena = Arena(tmp_path_factory.mktemp("data"), "recipe_exp.tasks.checks", "huggingface_hub")
    yield arena
    arena.close()


@pytest.fixture(scope="session")
def whole_arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """Runs commands in a process that has loaded everything."""
    tasks = ("train", "evaluate", "generate", "merge")
    arena = Arena(tmp_path_factory.mktemp("whole"), *(f"recipe_exp.tasks.{name}" for name in tasks))
    yield arena
    arena.close()


@pytest.mark.parametrize("case", fast_and_full("data_files"))
def test_hostile_data(arena: Arena, case: Case) -> None:
    check(case, arena.run(case))


@pytest.mark.parametrize("case", fast_and_full("model_folders"))
def test_hostile_model(arena: Arena, case: Case) -> None:
    check(case, arena.run(case))


@FULL
@pytest.mark.parametrize("case", params("data_files", late=True))
def test_data_that_only_a_run_knows(whole_arena: Arena, case: Case) -> None:
    check(case, whole_arena.run(case))


@FULL
@pytest.mark.parametrize("case", params("model_folders", late=True))
def test_model_that_only_loading_knows(whole_arena: Arena, case: Case) -> None:
    check(case, whole_arena.run(case))


@FULL
@pytest.mark.parametrize("case", params("run_folders", late=True))
def test_run_folder_that_only_loading_knows(whole_arena: Arena, case: Case) -> None:
    check(case, whole_arena.run(case))


ROWS = st.one_of(
    st.binary(max_size=80).map(lambda content: content.decode("utf-8", "surrogateescape")),
    st.text(max_size=60),
    st.recursive(
        st.sampled_from(['"a"', "1", "null", "true", "1e999", '"\\u001b[31m"', '"\\ud800"', "NaN", "-0"]),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3).map(lambda items: "[" + ",".join(items) + "]"),
            st.lists(
                st.tuples(st.sampled_from(["title", "ingredients", "instructions", "input", "x"]), inner), max_size=4
            ).map(lambda items: "{" + ",".join(f'"{key}":{value}' for key, value in items) + "}"),
        ),
        max_leaves=8,
    ),
)
FORMATS = st.sampled_from(["jsonl", "json", "csv", "html", "markdown", "cooklang", "mealmaster", "mastercook", "auto"])


def check_any(case: Case, outcome: dict[str, Any]) -> None:
    """Asserts what holds of any data: a mistake in readable lines or none, soon, and nothing else done."""
    shown = f"{case['files']!r}\n{outcome['errors'][-3000:]}"
    assert not outcome["hung"], shown
    assert outcome["exit_code"] in (0, 2), shown
    check_errors(outcome["errors"])
    check_writes(case, outcome)


def try_any_data(arena: Arena, rows: list[str], format_name: str) -> None:
    """Ten random rows among sixty good ones of JSON Lines, or random rows alone in another format."""
    good = GOOD_ROWS if format_name == "jsonl" else ""
    command = [*SMALL, *TINY, "data=jsonl", f"data.format={format_name}", "data.path=recipes.jsonl"]
    case: Case = {"command": command, "files": {RECIPES: [*(f"{row}\n" for row in rows), good]}, "late": True}
    check_any(case | {"leaves_a_run": True}, arena.run(case | {"memory_gib": 6}))


def random_cases(number: int) -> Any:
    """Returns the settings of so many examples, each a command of its own."""
    slow = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(deadline=None, max_examples=number, suppress_health_check=slow)


@random_cases(10)
@given(st.lists(ROWS, min_size=5, max_size=10))
def test_random_data_is_refused_or_rejected_before_training(arena: Arena, rows: list[str]) -> None:
    """Without a good row among them they cannot make a run."""
    command = [*SMALL, *TINY, "data=jsonl", "data.path=recipes.jsonl"]
    case: Case = {"command": command, "files": {RECIPES: [f"{row}\n" for row in rows]}}
    outcome = arena.run(case)
    assert outcome["exit_code"] == 2, outcome["errors"]
    check_any(case, outcome)


@FULL
@random_cases(100)
@given(st.lists(ROWS, max_size=10), FORMATS)
def test_many_random_files_of_data(whole_arena: Arena, rows: list[str], format_name: str) -> None:
    try_any_data(whole_arena, rows, format_name)
