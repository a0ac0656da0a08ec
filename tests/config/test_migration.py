"""`docs/migration.md` says of every foreign name what the program says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recipe_exp.config.foreign_names import FOREIGN_NAMES, OLD_FLAGS, OLD_SECTIONS, OTHERS, PEFT, TRANSFORMERS, Answer

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(?P<name>[^`]+)` \| (?:`(?P<here>[^`]+)`|none) \| (?P<note>.*) ?\|$", re.MULTILINE)


def rows(text: str) -> dict[str, Answer]:
    """The tables' rows: name there, key here, remark."""
    found = [(row["name"], row["here"], row["note"].strip()) for row in ROW.finditer(text)]
    assert len({name for name, *_ in found}) == len(found)
    return {name: Answer(here.replace("\\|", "|") if here else None, note) for name, here, note in found}


def test_every_name_stands_in_the_page_with_its_answer_and_no_other_does() -> None:
    assert rows(PAGE) == FOREIGN_NAMES


def test_every_row_of_a_table_is_read() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("|")]
    headers = [line for line in lines if line.startswith(("| there", "|---"))]
    assert len(lines) - len(headers) == len(FOREIGN_NAMES)


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("transformers", TRANSFORMERS),
        ("peft", PEFT),
        ("The old system's flags", OLD_FLAGS),
        ("The old system's sections", OLD_SECTIONS),
        ("Other tools", OTHERS),
    ],
)
def test_tables_are_grouped_like_the_source(heading: str, names: dict[str, Answer]) -> None:
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert rows(section) == names


def test_what_has_no_key_here_has_a_reason() -> None:
    assert [name for name, given in rows(PAGE).items() if not given.here and not given.note] == []
