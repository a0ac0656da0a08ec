"""What is said of learning rates."""

from __future__ import annotations

import pytest

from recipe_exp.planning.learning_rates import learning_rate_warning

USUAL = [
    ("base", "full", "1e-3"),
    ("base", "full", "1e-4"),
    ("large", "full", "5e-4"),
    ("xl", "full", "1e-4"),
    ("xxl", "full", "1e-4"),
    ("xxl", "full_low_memory", "1e-3"),
    ("xxl", "lora", "1e-4"),
    ("base", "lora", "1e-3"),
    ("base", "lora_plus", "5e-5"),
]
UNUSUAL = [
    ("base", "full", "3e-3", "high"),
    ("base", "full", "5e-6", "low"),
    ("xl", "full", "5e-4", "high"),
    ("xxl", "full", "3e-4", "high"),
    ("xxl", "full_low_memory", "1e-5", "low"),
    ("base", "lora", "1e-5", "low"),
    ("base", "lora", "1e-2", "high"),
]


@pytest.mark.parametrize(("size", "training", "rate"), USUAL)
def test_usual_rates_are_not_mentioned(composed, size, training, rate):
    config = composed(f"model=flan_t5_{size}", f"training={training}", f"training.learning_rate={rate}")
    assert learning_rate_warning(config.model, config.training) is None


@pytest.mark.parametrize(("size", "training", "rate", "side"), UNUSUAL)
def test_unusual_rates_are_told_with_what_is_usual(composed, size, training, rate, side):
    config = composed(f"model=flan_t5_{size}", f"training={training}", f"training.learning_rate={rate}")
    line = learning_rate_warning(config.model, config.training)
    assert f"training.learning_rate={rate.replace('e-', 'e-0') if float(rate) < 1e-4 else float(rate)}" in line
    assert f"unusually {side}" in line
    assert "is usual" in line


def test_random_weights_are_learnt_at_other_rates(composed):
    config = composed("model=t5_tiny")
    assert learning_rate_warning(config.model, config.training) is None
