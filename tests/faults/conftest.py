"""What the fault tests share: a process that starts commands quickly, and an uninterrupted run to compare with."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# The helpers beside the tests are plain modules, which pytest's importlib mode does not find by itself.
sys.path.insert(0, str(Path(__file__).parent))

from chaos import RUN, Attempt, ForkServer, write_recipes
from fault_outcome import Outcome, read_outcome
from fault_processes import recipe_exp_command, strike


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """Starts commands without importing the package again."""
    server = ForkServer({**os.environ})
    yield server
    server.close()


@pytest.fixture(scope="session")
def recipes_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of every run here."""
    path = tmp_path_factory.mktemp("data") / "recipes.jsonl"
    write_recipes(path)
    return path


@pytest.fixture(scope="session")
def command(recipes_file: Path) -> list[str]:
    """The command that is started again and again, each time word for word."""
    return [*RUN, f"data.path={recipes_file}", "tracking=journal_only"]


@dataclass(frozen=True)
class Whole:
    """A run that nothing disturbed."""

    folder: Path
    attempt: Attempt
    outcome: Outcome


@pytest.fixture(scope="session")
def whole(fork_server: ForkServer, command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The run that every other one must end like."""
    folder = tmp_path_factory.mktemp("whole")
    attempt = fork_server.attempt(command, folder)
    assert attempt.code == 0, attempt.last_words
    return Whole(folder, attempt, read_outcome(folder))


@dataclass(frozen=True)
class WholeOfTwo:
    """A run of two processes that nothing disturbed."""

    outcome: Outcome
    seconds: float


@pytest.fixture(scope="session")
def whole_of_two(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> WholeOfTwo:
    """The run that every other one of two processes must end like."""
    folder = tmp_path_factory.mktemp("whole-of-two")
    start = time.monotonic()
    fall = strike(recipe_exp_command([*command, "hardware.num_processes=2"]), folder, None)
    assert fall.code == 0, fall.last_words
    return WholeOfTwo(read_outcome(folder), time.monotonic() - start)
