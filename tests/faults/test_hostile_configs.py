"""Hostile command lines, files of options and run folders: each is refused in one line, soon, and leaves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hostile_cases import HEADER, LOCAL, Arena, Case, check, check_errors, check_writes, params, table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# Every third case shows in seconds that the rest is worth running.
SHARE_OF_THE_FAST_PART = 3


def fast_and_full(name: str) -> list[Any]:
    """Returns the early cases of a table, most of them for the long part."""
    return [
        case if number % SHARE_OF_THE_FAST_PART == 0 else pytest.param(*case.values, id=case.id, marks=FULL)
        for number, case in enumerate(params(name, late=False))
    ]


FULL = pytest.mark.faults_full


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """Runs commands in a process that has not loaded PyTorch."""
    arena = Arena(
        tmp_path_factory.mktemp("configs"),
        "recipe_exp.tasks.checks",
        "recipe_exp.tasks.plan",
        "recipe_exp.sweeping.launcher",
    )
    yield arena
    arena.close()


@pytest.mark.parametrize("case", fast_and_full("command_lines"))
def test_hostile_command_line(arena: Arena, case: Case) -> None:
    check(case, arena.run(case))


@pytest.mark.parametrize("case", fast_and_full("option_files"))
def test_hostile_file_of_options(arena: Arena, case: Case) -> None:
    check(case, arena.run(case))


@pytest.mark.parametrize("case", fast_and_full("run_folders"))
def test_run_folder_edited_by_hand(arena: Arena, case: Case) -> None:
    check(case, arena.run(case))


def test_tables_hold_what_is_promised() -> None:
    names = ("command_lines", "option_files", "run_folders", "data_files", "model_folders")
    cases = {name: table(name) for name in names}
    assert sum(map(len, cases.values())) >= 200
    for made in cases.values():
        shown = [case["name"] for case in made]
        assert len(set(shown)) == len(shown)
        # A case says what is said, or why nothing is.
        assert [case["name"] for case in made if not {"says", "harmless", "exit"} & case.keys()] == []


WORDS = st.sampled_from(
    [
        *(
            "seed",
            "model",
            "training",
            "training.batch_size",
            "training/optimizer",
            "data.path",
            "output_dir",
            "resume",
        ),
        *("tags", "run_name", "task", "task.run", "hydra.run.dir", "hydra.launcher.slots", "experiment", "local"),
        *("flan_t5_base", "lora", "null", "nan", "inf", "-1", "1e999", "???", "_self_", "schema", "_target_", "plan"),
        *("${", "}", "${seed}", "${oc.env:HOME}", "${mul:2,a}", "choice(", "range(", "glob(*)", "shuffle(", "int("),
        *("[", "]", "{", ")", "(", ",", ":", "=", "=", "=", ".", "/", "@", "+", "~", "-", " ", "'", '"', "\\", "\n"),
        *(
            "\0",
            "\x1b[31m",
            "\u202e",
            "\udcff",
            "\ud83d",
            "9" * 500,
            "x" * 300,
            "é",
            "..",
            "/etc/passwd",
            "!!python/name:os",
        ),
        *("-m", "--cfg", "--info", "--multirun", "--", "--config-dir", "--resolve", "--experimental-rerun"),
    ]
)
LINES = st.lists(st.lists(WORDS, min_size=1, max_size=6).map("".join), min_size=1, max_size=3)
KEYS = st.sampled_from(
    [
        *(
            "seed",
            "tags",
            "run_name",
            "model",
            "training",
            "data",
            "hydra",
            "defaults",
            "task",
            "zzz",
            "",
            "a.b",
            "_target_",
        ),
        *("batch_size", "optimizer", "kind", "path", "shape", "mode", "sweeper", "params", "callbacks", "\x1b[31m"),
    ]
)
VALUES = st.one_of(
    st.sampled_from(
        ["null", "~", "x", "-1", "1e999", ".nan", "${seed}", "'${'", "!!set {a}", "*a", "&a 1", "yes", "schema"]
    ),
    st.integers(-(10**30), 10**30).map(str),
    st.text(max_size=8).map(lambda text: '"' + text.replace("\\", "").replace('"', "") + '"'),
)
TREES = st.recursive(
    VALUES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[" + ", ".join(items) + "]"),
        st.dictionaries(KEYS, inner, max_size=4).map(
            lambda items: "{" + ", ".join(f'"{key}": {value}' for key, value in items.items()) + "}"
        ),
    ),
    max_leaves=12,
)
DOCUMENTS = st.one_of(
    st.dictionaries(KEYS, TREES, max_size=4).map(
        lambda items: "".join(f'"{key}": {value}\n' for key, value in items.items())
    ),
    st.text(max_size=60),
    st.binary(max_size=60).map(lambda content: content.decode("utf-8", "surrogateescape")),
)


def check_any(case: Case, outcome: dict[str, Any]) -> None:
    """Asserts what holds of any input: a mistake in readable lines or none, soon, and nothing else done."""
    shown = f"{case['command']!r}\n{case.get('files')!r}\n{outcome['errors'][-3000:]}"
    assert not outcome["hung"], shown
    assert outcome["exit_code"] in (0, 2), shown
    check_errors(outcome["errors"])
    check_writes(case, outcome)


def try_any_command_line(arena: Arena, words: list[str]) -> None:
    # Looked at, not run: words that happen to be right would train.
    case: Case = {"command": [*words, "--cfg", "job"]}
    check_any(case, arena.run(case))


def try_any_file(arena: Arena, text: str) -> None:
    case: Case = {"command": ["--cfg", "job"], "files": {LOCAL: [HEADER, text]}}
    check_any(case, arena.run(case))


def random_cases(number: int) -> Any:
    """Returns the settings of so many examples, each a command of its own."""
    slow = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(deadline=None, max_examples=number, suppress_health_check=slow)


@random_cases(15)
@given(LINES)
def test_random_command_lines(arena: Arena, words: list[str]) -> None:
    try_any_command_line(arena, words)


@random_cases(15)
@given(DOCUMENTS)
def test_random_files_of_options(arena: Arena, text: str) -> None:
    try_any_file(arena, text)


@FULL
@random_cases(200)
@given(LINES)
def test_many_random_command_lines(arena: Arena, words: list[str]) -> None:
    try_any_command_line(arena, words)


@FULL
@random_cases(200)
@given(DOCUMENTS)
def test_many_random_files_of_options(arena: Arena, text: str) -> None:
    try_any_file(arena, text)
