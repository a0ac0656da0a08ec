"""Which keys change the numbers of a run, which may differ freely, and in what two runs differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from recipe_exp.config.messages import show_change

if TYPE_CHECKING:
    from recipe_exp.config.experiment import ExperimentConfig

FREE_KEYS = (
    "task.",
    "run_name",
    "description",
    "tags",
    "output_dir",
    "resume",
    "resume_strict",
    "resume_allow",
    "resume_schedule",
    "tracking.",
    "sweep.",
    "hardware.",
    "evaluation.every_n_steps",
    "evaluation.samples_every_n_steps",
    "evaluation.untuned_base",
    "evaluation.validation_prompts",
    "model.attention",
    "model.gradient_checkpointing",
    "data.cache_dir",
    "data.max_rejected_fraction",
    "data.verify",
    "training.log_every_n_steps",
    "training.checkpoint_every_n_steps",
    "training.keep_best_n_checkpoints",
    "training.stop_after_hours",
    "training.on_non_finite",
    "training.max_loss_increase",
    "training.callbacks",
)
"""Keys, and sections with a dot at their end, that a run may be continued with in any way."""
LENGTH_KEYS = ("training.num_epochs", "training.max_steps")
"""Keys that make a run longer or shorter; the learning rate's schedule may depend on them."""
FIXED_KEYS = (
    "model.shape.",
    "training.adapter.kind",
    "training.adapter.rank",
    "training.adapter.targets",
    "training.adapter.dora",
    "training.adapter.init",
    "training.optimizer.kind",
)
"""Keys, and a section, that no permission covers: the weights and moments of a checkpoint fit no other value."""
MAPPING_KEYS = ("data.prompts", "data.templates")
"""Keys whose value is a mapping, which is compared as a whole."""
FACTS = ("data", "tokenizer", "tokens", "base", "precision", "num_processes", "device")
"""What is compared beside the keys when a run is continued.

Contents of the data files; the tokenizer; the tokens made of both, where neither explains their difference; the base
weights under an adapter; the resolved precision, number of processes and device.
"""


@dataclass(frozen=True)
class Difference:
    """One thing in which a run and what continues it differ.

    Attributes:
        key: a dotted key or one of `FACTS`.
        then: what the run was executed with; `...` if it had no such key.
        now: what it would be continued with.
    """

    key: str
    then: Any
    now: Any

    def __str__(self) -> str:
        then, now = ("absent" if value is ... else value for value in (self.then, self.now))
        return f"{self.key}: {show_change(then, now)}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values; what is absent is null."""
        then, now = (None if value is ... else value for value in (self.then, self.now))
        return {"key": self.key, "then": then, "now": now}


def flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of nested plain data; what is a mapping by its nature is one value."""
    for name, value in data.items():
        if isinstance(value, Mapping) and f"{prefix}{name}" not in MAPPING_KEYS:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def is_free(key: str) -> bool:
    """Returns whether a run may be continued with any value of a dotted key."""
    return _is_among(key, FREE_KEYS)


def is_fixed(key: str) -> bool:
    """Returns whether no permission lets a run go on with another value of a dotted key."""
    return _is_among(key, FIXED_KEYS)


def numbers_relevant(config: ExperimentConfig) -> dict[str, Any]:
    """Returns the keys that change a run's numbers, by dotted name.

    The machine (`hardware`, how attention is computed), the record (`tracking`), intervals of logging, saving and
    evaluating, and names may differ freely.
    """
    return _relevant(flatten(config.model_dump(mode="json")))


def overlay(stored: ExperimentConfig, given: ExperimentConfig, usual: ExperimentConfig) -> ExperimentConfig:
    """Returns a stored configuration with what a command says beside it: the keys that it names, or that are unusual.

    Args:
        stored: of a run.
        given: what the command composed to.
        usual: what a command without any key composes to.

    Raises:
        ConfigError: if the given keys do not go together with the stored ones.
    """
    return type(stored).from_data(_laid_over(stored, given, usual))


def changes(stored: ExperimentConfig, given: ExperimentConfig, usual: ExperimentConfig) -> list[Difference]:
    """Returns every numbers-relevant key in which `overlay` would differ from the stored configuration."""
    return differences(numbers_relevant(stored), _relevant(flatten(_laid_over(stored, given, usual))))


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Returns every key whose value differs; where another option of a union is chosen, its `kind` alone."""
    keys = [*then, *(key for key in now if key not in then)]
    differing = [key for key in keys if then.get(key, ...) != now.get(key, ...)]
    switched = tuple(key.removesuffix("kind") for key in differing if key.endswith(".kind"))
    return [
        Difference(key, then.get(key, ...), now.get(key, ...))
        for key in differing
        if key.endswith(".kind") or not key.startswith(switched)
    ]


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Returns each key's last part, or the whole key where two would be called the same."""
    last = {key: key.replace("/", ".").rpartition(".")[2] for key in keys}
    count = Counter(last.values())
    return {key: name if count[name] == 1 else key for key, name in last.items()}


def explain_name(name: str, keys: Sequence[str]) -> str | None:
    """Returns why a name cannot stand in `resume_allow`, None if it can.

    Args:
        name: a dotted key or one of `FACTS`.
        keys: every dotted key of the schema.
    """
    if is_fixed(name):
        return "cannot be permitted, since weights and moments of a checkpoint fit no other; start a run of its own"
    if name in LENGTH_KEYS:
        return "no permission is needed; a decaying schedule needs resume_schedule=keep or resume_schedule=stretch"
    if name in FACTS or (name in keys and not is_free(name)):
        return None
    last = name.rpartition(".")[2]
    if name in keys:
        return f"did you mean {last}?" if last in FACTS else "may differ anyway; leave it out"
    inside = [key for key in keys if key.startswith(f"{name}.") and not is_free(key)]
    if inside:
        return f"a section; name its keys, such as {inside[0]}"
    candidates = [*FACTS, *(key for key in keys if not is_free(key))]
    own_names = {key: key.rpartition(".")[2] for key in candidates}
    close = get_close_matches(name, candidates, n=1, cutoff=0.6) or [
        key for key in candidates if own_names[key] in get_close_matches(last, own_names.values(), n=1, cutoff=0.7)
    ]
    return f"nothing of that name is compared; {f'did you mean {close[0]}?' if close else 'name ' + ', '.join(FACTS)}"


def _laid_over(stored: ExperimentConfig, given: ExperimentConfig, usual: ExperimentConfig) -> dict[str, Any]:
    data: dict[str, Any] = stored.model_dump(mode="json")
    whole = given.model_dump(mode="json")
    for key, value in _given(given, usual).items():
        *path, last = key.split(".")
        section, source = data, whole
        for part in path:
            parent, section, source = section, section[part], source[part]
        if section.get("kind") != source.get("kind"):  # no key of one option belongs to another
            parent[path[-1]] = source
        else:
            section[last] = value
    return data


def _is_among(key: str, names: Sequence[str]) -> bool:
    return any(key.startswith(name) if name.endswith(".") else key == name for name in names)


def _given(given: ExperimentConfig, usual: ExperimentConfig) -> dict[str, Any]:
    """Returns the keys that a command sets: those with another value than usual, and those that it names itself."""
    before = dict(flatten(usual.model_dump(mode="json")))
    after = flatten(given.model_dump(mode="json"))
    sections = tuple(f"{key}." for key in given.typed_keys)
    return {
        key: value
        for key, value in after
        if before.get(key, ...) != value or key in given.typed_keys or key.startswith(sections)
    }


def _relevant(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in items if not is_free(key)}
