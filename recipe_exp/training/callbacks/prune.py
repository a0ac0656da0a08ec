"""The early end of a sweep's trial that others have left behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from recipe_exp.training.callbacks.callback import Callback
from recipe_exp.training.lifecycle import StopReason

if TYPE_CHECKING:
    from recipe_exp.training.trainer import Trainer


class PruneCallback(Callback):
    """Ends the run after an evaluation if its sweep says so.

    Args:
        is_pruned: asks the sweep about the evaluation at a step.
    """

    # After the checkpoints (60), which rank the evaluation, and the journal (50), where the sweep reads it.
    priority = 45

    def __init__(self, is_pruned: Callable[[int], bool]) -> None:
        self.is_pruned = is_pruned

    def on_validation_end(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Asks, unless the run ends here anyway."""
        if trainer.state.step < trainer.length.total_steps and self.is_pruned(trainer.state.step):
            trainer.stop(StopReason.PRUNED)
