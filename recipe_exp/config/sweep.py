"""`sweep.`: how a sweep goes on, what it searches, and which part of it this machine runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator

from recipe_exp.config.base import Count, Section, Text

Search = Literal["grid", "random", "tpe", "gp"]

_SHARD = re.compile(r"([1-9]\d{0,4})/([1-9]\d{0,4})")


class SweepConfig(Section):
    """What `--multirun` does beside its values. Nothing here reaches a trial."""

    new: bool = False
    """Begin again: a sweep of the same grid that is there already stays as it is and is not continued."""
    extend: Text | None = None
    """A sweep that gets the values of this command beside its own: its run id, its folder or `latest`."""
    retry_failed: bool = True
    """Run a trial again that failed; false leaves it as it is."""
    shard: Text | None = None
    """The part of the trials that this machine runs, such as `1/2` and, on the other, `2/2`; null runs them all.
    `output_dir` must be a folder that all of them see."""
    keep_checkpoints: Literal["all", "best"] = "all"
    """`best` removes the checkpoints of each trial that is done and is not the best so far; its best model stays."""
    search: Search = "grid"
    """`grid` tries every combination; `random` draws them, `tpe` and `gp` (Optuna) learn from trials that are done.
    Only the last three take `interval(...)`."""
    num_trials: Count | None = None
    """How many trials a search draws, those of earlier calls included. A grid has as many as it has combinations."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the draws; that of a trial's training is `seed`."""
    pruner: Literal["none", "median", "hyperband"] = "none"
    """Ends a trial early whose validation is worse than that of others (`median`) or than that of the better third of
    its bracket (`hyperband`) at the same step. Looked at with every evaluation (`evaluation.every_n_steps`)."""
    pruner_startup_trials: Annotated[int, Field(ge=0, le=1_000_000)] = 5
    """Trials that `median` lets end before it prunes any."""
    pruner_warmup_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Steps before which `median` prunes nothing, and with which `hyperband` begins."""
    minimize_time: bool = False
    """Search for trials that are good in `evaluation.best_metric` and short too, by the wall time of their processes.
    The table at the end still ranks by the metric alone; `optuna.db` knows both."""

    @field_validator("shard", mode="before")
    @classmethod
    def _refuse_no_part(cls, shard: object) -> object:
        parts = _SHARD.fullmatch(str(shard)) if shard is not None else None
        if shard is not None and (parts is None or int(parts[1]) > int(parts[2])):
            raise ValueError("must be a part of a whole, such as 1/2 or 2/2")
        return shard

    @property
    def part(self) -> tuple[int, int]:
        """Which part, counted from 1, of how many this machine runs."""
        number, _, count = (self.shard or "1/1").partition("/")
        return int(number), int(count)


def sweep_contradictions(sweep: SweepConfig) -> Iterator[str]:
    """Yields one line for each pair of `sweep.` keys that cannot both hold."""
    if sweep.new and sweep.extend is not None:
        yield "sweep.new=true: not together with sweep.extend, which goes on with a sweep that there is"
    is_learning = sweep.search in ("tpe", "gp")
    if sweep.search == "grid":
        if sweep.num_trials is not None:
            yield f"sweep.num_trials={sweep.num_trials}: a grid tries all its values; add sweep.search=random or tpe"
        if sweep.pruner != "none":
            yield f"sweep.pruner={sweep.pruner}: a grid runs its trials to their end; add sweep.search=tpe"
    elif sweep.num_trials is None:
        yield f"sweep.search={sweep.search}: never ends by itself; set sweep.num_trials"
    if sweep.search != "grid" and sweep.extend is not None:
        yield "sweep.extend: a search is extended by a larger sweep.num_trials; leave it out, or take sweep.search=grid"
    if sweep.shard is not None and (is_learning or sweep.pruner != "none"):
        yield (
            f"sweep.shard={sweep.shard}: a search that learns from its trials runs in one process; take "
            "hydra.launcher.slots, or sweep.search=random without a pruner"
        )
    if sweep.minimize_time and (not is_learning or sweep.pruner != "none"):
        yield "sweep.minimize_time=true: two aims need sweep.search=tpe or gp, and sweep.pruner=none"
