from __future__ import annotations

import pytest

from recipe_exp.metrics.steps import instruction_quality


@pytest.mark.parametrize(
    ("old", "new", "lost_marks"),
    [
        ("2. Melt", "2. Melt", 0),
        ("2. Melt", "3. Melt", 1),
        ("Melt the butter in a pan.", "The butter in a pan.", 1),
        ("Melt the butter in a pan.", "Melt", 1),
        ("Melt the butter in a pan.", "Melt " + "and so on " * 60, 1),
        ("Melt the butter in a pan.", "Whisk the flour, eggs and milk!", 1),
        ("2. Melt the butter in a pan.", "* Nothing", 3),
    ],
)
def test_instruction_quality_takes_a_mark_for_each_fault(text: str, old: str, new: str, lost_marks: int) -> None:
    assert instruction_quality(text.replace(old, new)) == pytest.approx(1 - lost_marks / 12)
