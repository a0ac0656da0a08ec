"""Search by Optuna: a study of its own in the sweep's folder, told what the ledger knows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.sweep import SweepConfig
from recipe_exp.errors import ConfigError, SweepError
from recipe_exp.sweeping.grid import plan_trials
from recipe_exp.sweeping.ledger import TrialRecord
from recipe_exp.sweeping.progress import Evaluation
from recipe_exp.sweeping.queue import Board
from recipe_exp.sweeping.space import Dimension, Space
from recipe_exp.tracking import answer_trial

DATABASE_NAME = "optuna.db"

_MAX_ASKED_IN_VAIN = 20
# Far apart, so that two sweeps of neighbouring seeds do not meet.
_SEED_STRIDE = 100_003


class StudySearch:
    """Asks Optuna for trials one by one, and tells it what came of them.

    The ledger is the truth and the study follows it: what was begun and never told is told when the search is made. A
    draw depends on the seed, its number and what is known by then, so an interrupted search goes on as it would have.

    Args:
        board: the sweep.
        space: what is drawn from.
        config: of a trial, for settings and the metric that ranks.
        identity: of the sweep; the study's name, by which Hyperband puts trials into brackets.
    """

    def __init__(self, board: Board, space: Space, config: ExperimentConfig, identity: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._board = board
        self._space = space
        self._sweep = config.sweep
        self._distributions = {dimension.key: _distribution(dimension) for dimension in space.dimensions}
        directions = [StudyDirection.MINIMIZE if config.evaluation.best_mode == "min" else StudyDirection.MAXIMIZE]
        self._study = optuna.create_study(
            storage=f"sqlite:///{board.folder.path / DATABASE_NAME}",
            study_name=identity,
            load_if_exists=True,
            directions=[*directions, StudyDirection.MINIMIZE] if config.sweep.minimize_time else directions,
            pruner=_pruner(config.sweep),
        )
        self._drawn = space.draw(config.sweep.num_trials or 1, config.sweep.seed)
        self._num_in_vain = 0
        self._pruned: set[str] = set()
        self._follow_ledger()

    @property
    def is_done(self) -> bool:
        """Whether all trials are drawn, or nothing else is left to be drawn."""
        is_exhausted = self._num_in_vain >= _MAX_ASKED_IN_VAIN
        return is_exhausted or len(self._board.ledger.read()) >= (self._sweep.num_trials or 1)

    def next(self) -> bool:
        """Plans a further trial; returns whether there is one.

        Raises:
            SweepError: what is drawn has mistakes again and again.
        """
        mistakes: Sequence[str] = ()
        while not self.is_done:
            asked = self._ask()
            values = {
                dimension.key: dimension.text(asked.params[dimension.key]) for dimension in self._space.dimensions
            }
            try:
                (trial,) = plan_trials([self._space.overrides(values)], varying_keys=self._space.keys)
            except ConfigError as error:
                mistakes = error.mistakes
                print(f"warning: a draw is passed over: {mistakes[0]}", flush=True)
                self._study.tell(asked, state=TrialState.FAIL)
                self._num_in_vain += 1
                continue
            known = self._board.ledger.read().get(trial.key)
            if known is None:
                self._num_in_vain = 0
                self._board.plan([trial], draw=asked.number)
                return True
            self._num_in_vain += 1
            self._tell_again(asked, known)
        if mistakes and self._num_in_vain >= _MAX_ASKED_IN_VAIN:
            raise SweepError(f"{_MAX_ASKED_IN_VAIN} draws in a row have mistakes; the last: {mistakes[0]}")
        return False

    def on_evaluation(self, record: TrialRecord, evaluation: Evaluation) -> None:
        """Tells the trial's process, which waits for it, whether to go on."""
        if self._sweep.pruner == "none" or record.draw is None:
            return
        known = self._frozen(record.draw)
        is_pruned = False
        if evaluation.step not in known.intermediate_values and not known.state.is_finished():
            trial = optuna.trial.Trial(self._study, known._trial_id)
            trial.report(evaluation.value, evaluation.step)
            is_pruned = math.isnan(evaluation.value) or trial.should_prune()
            self._pruned |= {record.key} if is_pruned else set()
        answer_trial(self._board.folder, record.key, evaluation.step, is_pruned=is_pruned)

    def was_pruned(self, key: str) -> bool:
        """Returns whether the process of a trial was told to end it."""
        return key in self._pruned

    def on_end(self, record: TrialRecord) -> None:
        """Tells Optuna what came of a trial; what may still be continued is told when it has ended for good."""
        if record.draw is None or record.state not in ("done", "pruned", "failed", "out of memory"):
            return
        known = self._frozen(record.draw)
        values = self._values(record)
        if not known.state.is_finished():
            if record.state == "pruned":
                self._study.tell(known.number, state=TrialState.PRUNED)
            elif values is None:
                self._study.tell(known.number, state=TrialState.FAIL)
            else:
                self._study.tell(known.number, values)
        elif known.state is TrialState.FAIL and values is not None and not self._has_later(record.draw):
            # It has a result after all, and what was told cannot be taken back.
            self._study.add_trial(
                optuna.create_trial(
                    params=known.params,
                    distributions=known.distributions,
                    values=values,
                    user_attrs={"repeats": record.draw},
                )
            )

    def _ask(self) -> optuna.trial.Trial:
        number = len(self._study.get_trials(deepcopy=False))
        if self._sweep.search == "random":
            self._enqueue(number)
        self._study.sampler = _sampler(self._sweep, number)
        return self._study.ask(self._distributions)

    def _enqueue(self, number: int) -> None:
        """A random search that is pruned draws what one that is not would draw."""
        line = self._drawn[min(number, len(self._drawn) - 1)]
        values = dict(override.partition("=")[::2] for override in line)
        self._study.enqueue_trial(
            {dimension.key: _parameter(dimension, values[dimension.key]) for dimension in self._space.dimensions}
        )

    def _follow_ledger(self) -> None:
        records = {record.draw: record for record in self._board.ledger.read().values() if record.draw is not None}
        for known in self._study.get_trials(deepcopy=False):
            record = records.get(known.number)
            if record is not None:
                self.on_end(record)
            elif not known.state.is_finished():
                # It was drawn, and nobody lived to write it down.
                self._study.tell(known.number, state=TrialState.FAIL)

    def _tell_again(self, asked: optuna.trial.Trial, known: TrialRecord) -> None:
        """Tells what is known of a point that was drawn before."""
        values = self._values(known)
        if values is None:
            self._study.tell(asked, state=TrialState.FAIL)
        else:
            self._study.tell(asked, values)

    def _values(self, record: TrialRecord) -> list[float] | None:
        if record.state != "done" or record.end is None or record.end.best is None:
            return None
        if not math.isfinite(record.end.best):
            return None
        return [record.end.best, record.seconds] if self._sweep.minimize_time else [record.end.best]

    def _frozen(self, draw: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[draw]

    def _has_later(self, draw: int) -> bool:
        return any(known.user_attrs.get("repeats") == draw for known in self._study.get_trials(deepcopy=False))


def _distribution(dimension: Dimension) -> BaseDistribution:
    match dimension.kind:
        case "float":
            return FloatDistribution(dimension.low, dimension.high, log=dimension.is_log)
        case "int":
            return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.is_log)
        case "ordered":
            return IntDistribution(0, len(dimension.values) - 1)
        case "choice":
            return CategoricalDistribution(list(range(len(dimension.values))))


def _parameter(dimension: Dimension, text: str) -> Any:
    if dimension.values:
        return dimension.values.index(text)
    return int(text) if dimension.kind == "int" else float(text)


def _sampler(sweep: SweepConfig, number: int) -> optuna.samplers.BaseSampler:
    seed = (sweep.seed * _SEED_STRIDE + number) % 2**32
    match sweep.search:
        case "gp":
            return optuna.samplers.GPSampler(seed=seed, deterministic_objective=False)
        case "tpe":
            # With several slots, trials that still run count as bad ones, or all slots would try the same.
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        case _:
            return optuna.samplers.RandomSampler(seed=seed)


def _pruner(sweep: SweepConfig) -> optuna.pruners.BasePruner:
    match sweep.pruner:
        case "median":
            return optuna.pruners.MedianPruner(sweep.pruner_startup_trials, sweep.pruner_warmup_steps)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=max(sweep.pruner_warmup_steps, 1))
        case "none":
            return optuna.pruners.NopPruner()
