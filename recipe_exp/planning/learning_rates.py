"""Which learning rates are usual for a way of tuning and a size, and what to say of others."""

from __future__ import annotations

from dataclasses import dataclass

from recipe_exp.config.model import ModelConfig
from recipe_exp.config.training import AdafactorConfig, LoraConfig, TrainingConfig
from recipe_exp.planning.parameters import count_parameters, count_text

# The most that full tuning with AdamW usually takes, up to a number of parameters.
_LARGEST_OF_ADAMW = ((300e6, 1e-3), (1e9, 5e-4), (4e9, 3e-4), (float("inf"), 1e-4))


@dataclass(frozen=True)
class UsualRates:
    """Learning rates that are usual.

    Attributes:
        smallest: of them.
        largest: of them.
        method: what they are usual for.
    """

    smallest: float
    largest: float
    method: str


def usual_rates(model: ModelConfig, training: TrainingConfig) -> UsualRates | None:
    """Returns what is usual; None for random weights, which are learnt from scratch.

    Sources: LoRA 1e-4 to 1e-3, Hu et al., 2021 (https://arxiv.org/abs/2106.09685, appendix D). LoRA+ gives the factor B
    a multiple of the rate, and the geometric mean of both rates is held against that range
    (https://arxiv.org/abs/2402.12354). Adafactor's rate is relative to a weight's size: 1e-3 in Raffel et al., 2020
    (https://arxiv.org/abs/1910.10683, section 3.1), 5e-4 in Chung et al., 2022 (https://arxiv.org/abs/2210.11416,
    appendix E), and half a decade around them. AdamW 1e-5 to 1e-3, where the transformers documentation of T5 names
    1e-4 and 3e-4; the upper end falls with the size as it does for decoders (Brown et al., 2020,
    https://arxiv.org/abs/2005.14165, table 2.1).
    """
    if not model.pretrained:
        return None
    if isinstance(training.adapter, LoraConfig):
        spread = (training.adapter.learning_rate_ratio or 1.0) ** 0.5
        return UsualRates(1e-4 / spread, 1e-3 / spread, "an adapter")
    if isinstance(training.optimizer, AdafactorConfig):
        return UsualRates(1e-4, 3e-3, "Adafactor, whose rate is relative to a weight's size")
    count = count_parameters(model.shape)
    largest = next(rate for limit, rate in _LARGEST_OF_ADAMW if count <= limit)
    return UsualRates(1e-5, largest, f"tuning all {count_text(count)} weights with AdamW")


def learning_rate_warning(model: ModelConfig, training: TrainingConfig) -> str | None:
    """Returns one line where the learning rate is unusual for size and method."""
    usual = usual_rates(model, training)
    rate = training.learning_rate
    # What was rounded in a YAML is not unusual.
    if usual is None or usual.smallest * 0.99 <= rate <= usual.largest * 1.01:
        return None
    side = "low" if rate < usual.smallest else "high"
    return (
        f"training.learning_rate={rate:g} is unusually {side} for {usual.method}: "
        f"{usual.smallest:.2g} to {usual.largest:.2g} is usual"
    )
