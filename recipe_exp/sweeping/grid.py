"""The trials of a sweep: what each is called, its configuration, and every mistake in any of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

from recipe_exp.config.compose import compose_command
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.relevance import short_names
from recipe_exp.errors import ConfigError
from recipe_exp.sweeping.identity import trial_key

# The parent run and its children are one record in one place.
SHARED_KEYS = ("output_dir", "tracking.enabled", "tracking.uri", "tracking.experiment")

_UNSAFE_IN_QUOTES = str.maketrans("", "", "'\"\\${}")


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        number: counted from 1.
        overrides: the complete command line of the trial.
        varying: the keys in which trials differ, with this trial's values as they were typed.
        config: what the overrides compose to.
        known_key: what the ledger knows the trial by already.
    """

    number: int
    overrides: tuple[str, ...]
    varying: Mapping[str, str]
    config: ExperimentConfig
    known_key: str | None = None

    @cached_property
    def name(self) -> str:
        """What differs, such as `learning_rate=1e-3,rank=8`; empty if trials do not differ."""
        names = short_names(self.varying)
        return ",".join(f"{names[key]}={value}" for key, value in self.varying.items())

    @cached_property
    def key(self) -> str:
        """What the ledger knows the trial by, whichever sweep, machine or spelling of a value it comes from."""
        return self.known_key or trial_key(self.config, self.varying)

    @property
    def run_name_override(self) -> tuple[str, ...]:
        """The override that names the run after what differs; none if the user named it or nothing differs."""
        safe_name = self.name.translate(_UNSAFE_IN_QUOTES)
        return () if self.config.run_name is not None or not safe_name else (f"run_name='{safe_name}'",)


def plan_trials(
    grid: Sequence[Sequence[str]], *, varying_keys: Sequence[str] | None = None, check_files: bool = True
) -> list[Trial]:
    """Returns the trials of a grid, each with its validated configuration.

    Args:
        grid: every trial's overrides, `key=value` each.
        varying_keys: those that trials are named after; None takes those in which they differ.
        check_files: whether files that the configurations name must exist on this machine.

    Raises:
        ConfigError: with the mistakes of all trials, one line each; a mistake that only some trials make says which.
    """
    values = [dict(line.partition("=")[::2] for line in overrides) for overrides in grid]
    if varying_keys is None:
        varying_keys = _varying_keys(values)
    trials: list[Trial] = []
    mistakes: dict[str, list[list[str]]] = {}
    for overrides, by_key in zip(grid, values, strict=True):
        varying = {key: by_key.get(key, "") for key in varying_keys}
        try:
            config = compose_command(overrides, is_sweep=True, check_files=check_files).config
        except ConfigError as error:
            for line in error.mistakes:
                mistakes.setdefault(line, []).append([f"{key}={value}" for key, value in varying.items()])
            continue
        of_trial = tuple(override for override in overrides if not override.startswith("sweep."))
        trials.append(Trial(len(trials) + 1, of_trial, varying, config))
    found = [_explain(line, affected, len(grid)) for line, affected in mistakes.items()]
    found += _disagreements([trial.config for trial in trials])
    found += _repetitions(trials)
    if not grid:
        found.append("the sweep has no trials; one of its lists of values is empty")
    if found:
        raise ConfigError(found)
    return trials


def swept_values(trials: Sequence[Trial]) -> dict[str, list[str]]:
    """Returns the different values of each varying key, in the order of the trials."""
    return {key: list(dict.fromkeys(trial.varying[key] for trial in trials)) for key in trials[0].varying}


def _varying_keys(values: Sequence[Mapping[str, str]]) -> list[str]:
    keys = dict.fromkeys(key for by_key in values for key in by_key)
    return [key for key in keys if len({by_key.get(key) for by_key in values}) > 1]


def _explain(mistake: str, affected: Sequence[Sequence[str]], num_trials: int) -> str:
    """Puts before a mistake the overrides that all trials that make it share, unless it names them itself."""
    if len(affected) == num_trials:
        return mistake
    shared = [override for override in affected[0] if all(override in others for others in affected)]
    cause = shared or list(affected[0])
    if mistake.startswith(tuple(f"{override}:" for override in cause)):
        return mistake
    return f"with {' '.join(cause)}: {mistake}"


def _repetitions(trials: Sequence[Trial]) -> Iterator[str]:
    first: dict[str, Trial] = {}
    for trial in trials:
        before = first.setdefault(trial.key, trial)
        if before is not trial:
            what = f" ({before.name} and {trial.name})" if trial.name else ""
            yield f"trials {before.number} and {trial.number} are the same{what}; name each value once"


def _disagreements(configs: Sequence[ExperimentConfig]) -> Iterator[str]:
    for key in SHARED_KEYS:
        values = dict.fromkeys(str(reduce(getattr, key.split("."), config)) for config in configs)
        if len(values) > 1:
            yield f"{key}={','.join(values)}: trials of one sweep are recorded in one place; give it a single value"
