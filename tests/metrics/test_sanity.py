from __future__ import annotations

from collections.abc import Callable

import pytest

from recipe_exp.metrics.sanity import temperature_time_sanity


@pytest.mark.parametrize(
    ("step", "score"),
    [
        ("Mix.", 1.0),
        ("Bake at 350 degrees F for 30 minutes.", 1.0),
        ("Bake at 3500 degrees F for 30 minutes.", 1 / 2),
        ("Bake at 180 °C.", 1.0),
        ("Bake at 400 °C.", 0.0),
        ("Freeze at -18 °C.", 1.0),
        ("Bake 20 to 30 minutes.", 1.0),
        ("Bake 30-20 minutes.", 0.0),
        ("Rest 1/2 hour.", 1.0),
        ("Rest 0 minutes, then 300 minutes.", 0.0),
        ("Rest 100 hours or 2 days.", 1 / 2),
        ("Beat for 45 seconds, then 1200 secs.", 1 / 2),
    ],
)
def test_the_share_that_a_kitchen_knows(changed: Callable[..., str], step: str, score: float) -> None:
    assert temperature_time_sanity(changed(instructions=(step,))) == score
