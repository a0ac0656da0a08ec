"""Metrics to the run's journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from recipe_exp.tracking.journal import Journal
from recipe_exp.training.callbacks.callback import Callback

if TYPE_CHECKING:
    from recipe_exp.training.trainer import Trainer


class JournalCallback(Callback):
    """Appends every logged metric to the journal, which survives whatever happens to the process or the tracker."""

    priority = 50

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def on_log(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of the present step."""
        self.journal.metrics(trainer.state.step, metrics)
