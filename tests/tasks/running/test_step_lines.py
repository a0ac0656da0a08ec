from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from recipe_exp.tasks.running.step_lines import StepLines, rewind_lines


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_step_has_one_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = StepLines(path, Console(quiet=True))
    for step, value in ((2, "a"), (4, "b"), (4, "again")):
        lines.append(step, {"value": value})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 2, "value": "a"},
        {"step": 4, "value": "b"},
    ]


def test_what_comes_after_a_step_is_forgotten_with_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n{"st')
    rewind_lines(path, 4)
    assert steps(path) == [2, 4]
    rewind_lines(tmp_path / "absent.jsonl", 4)


def test_what_a_full_disk_refused_comes_with_the_next_line(tmp_path: Path) -> None:
    folder = tmp_path / "not there yet"
    lines = StepLines(folder / "lines.jsonl", Console(quiet=True))
    lines.append(2, {})
    folder.mkdir()
    lines.append(4, {})
    assert steps(folder / "lines.jsonl") == [2, 4]


def test_processes_without_a_folder_write_nothing(tmp_path: Path) -> None:
    StepLines(None, Console(quiet=True)).append(2, {})
    assert list(tmp_path.iterdir()) == []
