from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.evaluation.cost import EvaluationCost, describe_cost

SECONDS = st.floats(0.01, 1e4)


def test_a_small_share_is_told_and_nothing_advised() -> None:
    line = describe_cost(
        EvaluationCost(1.0, 4.0, num_examples=500, num_generated=50), step_seconds=1, every_n_steps=500
    )
    assert line == "evaluation takes 5.0 s every 500 steps, 1% of the run's time"


def test_a_large_share_comes_with_what_brings_it_down() -> None:
    line = describe_cost(
        EvaluationCost(2.0, 18.0, num_examples=500, num_generated=90), step_seconds=1, every_n_steps=60
    )
    assert line == (
        "evaluation takes 20.0 s every 60 steps, 25% of the run's time; evaluation.every_n_steps=180 or "
        "evaluation.max_generated_examples=23 brings it under 10%"
    )


@given(SECONDS, SECONDS, SECONDS, st.integers(1, 2000), st.integers(1, 5000), st.integers(1, 500))
def test_what_is_advised_is_enough(
    loss: float, generation: float, step: float, every: int, num_examples: int, num_generated: int
) -> None:
    cost = EvaluationCost(loss, generation, num_examples=num_examples, num_generated=num_generated)
    line = describe_cost(cost, step_seconds=step, every_n_steps=every)
    advised = dict(re.findall(r"evaluation\.(\w+)=(\d+)", line))
    is_small = cost.seconds / (cost.seconds + step * every) <= 0.1
    assert is_small == (not advised)
    if "every_n_steps" in advised:
        steps = int(advised["every_n_steps"])
        assert cost.seconds <= 0.1001 * (cost.seconds + step * steps)
        assert steps > every
    if "max_examples" in advised:
        seconds = generation + loss * int(advised["max_examples"]) / num_examples
        assert seconds <= 0.1001 * (seconds + step * every)
    if "max_generated_examples" in advised:
        seconds = loss + generation * int(advised["max_generated_examples"]) / num_generated
        assert seconds <= 0.1001 * (seconds + step * every)
