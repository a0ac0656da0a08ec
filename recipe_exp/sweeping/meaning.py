"""What a command asks for: the trials of a grid, or the space of a search, and by what the sweep is known."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.relevance import short_names
from recipe_exp.errors import ConfigError
from recipe_exp.sweeping.grid import Trial, plan_trials
from recipe_exp.sweeping.identity import common_part, digest, identity_of
from recipe_exp.sweeping.opening import Meaning
from recipe_exp.sweeping.queue import Board, Search
from recipe_exp.sweeping.space import Space
from recipe_exp.sweeping.sweep import Sweep


def sweep_of_grid(trials: Sequence[Trial], num_slots: int, command: Sequence[str]) -> Sweep:
    """Returns the sweep of a grid, known by its trials in any order."""
    config, swept = trials[0].config, list(trials[0].varying)
    common = common_part([identity_of(trial.config) for trial in trials])
    meaning = Meaning(digest(sorted(trial.key for trial in trials)), common, swept, _name(config, swept))
    return Sweep(config, meaning, trials, num_slots, command)


def sweep_of_search(space: Space, num_slots: int, command: Sequence[str]) -> Sweep:
    """Returns the sweep of a search, known by its space, its seed and what learns; not by how long it goes on.

    Raises:
        ConfigError: with the mistakes of every value and of both ends of every interval, or if Optuna is missing.
    """
    corners = plan_trials(list(space.corners()), varying_keys=space.keys)
    config, settings = corners[0].config, corners[0].config.sweep
    common = common_part([identity_of(trial.config) for trial in corners])
    what = [common, sorted(map(repr, space.dimensions)), settings.search, settings.seed]
    what += [settings.pruner, settings.minimize_time]
    meaning = Meaning(digest(what), common, space.keys, _name(config, space.keys))
    if settings.search == "random" and settings.pruner == "none":
        # What is drawn depends on nothing that comes out, so all of it is known now.
        lines = space.draw(settings.num_trials or 1, settings.seed)
        return Sweep(config, meaning, plan_trials(lines, varying_keys=space.keys), num_slots, command)
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            [f"sweep.search={settings.search}: needs the extra `optuna`; pip install 'recipe-exp[optuna]'"]
        )

    def make_search(board: Board) -> Search:
        from recipe_exp.sweeping.study import StudySearch

        return StudySearch(board, space, config, meaning.identity)

    return Sweep(config, meaning, (), num_slots, command, make_search)


def _name(config: ExperimentConfig, swept: Sequence[str]) -> str:
    return config.run_name or " x ".join(short_names(swept).values()) or "sweep"
