"""What a run starts with: the machine, its length and its fingerprints, compared with those of its last execution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.relevance import FACTS, Difference, differences
from recipe_exp.config.training import LoraConfig
from recipe_exp.data.tokens.cache import TokenCache
from recipe_exp.errors import CheckpointError, HardwareError, ModelError
from recipe_exp.hardware.detect import resolve_device, resolve_precision
from recipe_exp.hardware.machinery import Machinery
from recipe_exp.models.attention_choice import AttentionChoice, missing_for
from recipe_exp.models.base_weights import BASE_FOLDER, base_fingerprint
from recipe_exp.tasks.building import resolve_machinery
from recipe_exp.tasks.running.resume_rules import Span, extended, length_problem, planned_steps, refuse, span_of
from recipe_exp.tasks.running.run_choice import RunChoice
from recipe_exp.tracking import RunFolder
from recipe_exp.training.checkpoint import Checkpoint, folder_name, list_checkpoints, step_of
from recipe_exp.training.schedules import depends_on_length

Fingerprints: TypeAlias = Mapping[str, str | None]

_NUM_SHOWN_CHARACTERS = 12


@dataclass(frozen=True)
class Start:
    """What a run starts with.

    Attributes:
        machinery: the resolved machine.
        span: how long the run is, and under what schedule.
        base: fingerprint of the weights that the run began with or that its adapter sits on; None if there are none,
            or if they are not known yet.
        fingerprints: what the run's checkpoints may have been made with; empty for a run of its own.
        differences: in which keys and facts the run goes on with other values, all of them permitted.
        notes: what a user should know of it.
    """

    machinery: Machinery
    span: Span
    base: str | None = None
    fingerprints: tuple[Fingerprints, ...] = ()
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()


def new_start(config: ExperimentConfig, cache: TokenCache) -> Start:
    """Returns what a run of its own starts with: it asks the machine."""
    total_steps = planned_steps(config.training, len(cache.split("train")))
    return Start(resolve_machinery(config, cache), Span(total_steps, total_steps))


def repeated_start(config: ExperimentConfig, cache: TokenCache, like: Mapping[str, Any]) -> Start:
    """Returns what a run starts with that repeats another.

    Args:
        config: of the run.
        cache: its data.
        like: `run.json` of the other, whose machinery it takes where this machine can.
    """
    total_steps = planned_steps(config.training, len(cache.split("train")))
    return Start(_machinery(config, cache, Machinery(**like["machinery"])), Span(total_steps, total_steps))


def changed_facts(config: ExperimentConfig, cache: TokenCache, like: Mapping[str, Any]) -> list[Difference]:
    """Returns the facts in which a run that repeats another would differ from it.

    Args:
        config: of the run.
        cache: its data.
        like: `run.json` of the other.
    """
    start = repeated_start(config, cache, like)
    base = base_fingerprint(config.model.name, config.model.revision) if config.model.pretrained else None
    return _compare(_recorded_facts(like), _present_facts(cache, start.machinery, base), ())


def resumed_start(choice: RunChoice, cache: TokenCache, folder: RunFolder) -> Start:
    """Returns what a run is continued with, from what is known before its model is loaded.

    Raises:
        ResumeError: if anything that changes numbers differs from the last execution and is not permitted.
    """
    config, record = choice.config, folder.read_record()
    if record.get("machinery") is None:
        return new_start(config, cache)
    then = _recorded_facts(record)
    machinery = _machinery(config, cache, Machinery(**record["machinery"]))
    base = _base(config, folder.path, then["base"])
    total_steps = planned_steps(config.training, len(cache.split("train")))
    checkpoints = list_checkpoints(folder.checkpoints_path)
    num_done = step_of(checkpoints[-1]) if checkpoints else 0
    before = span_of(record)
    found = [*choice.differences, *_compare(then, _present_facts(cache, machinery, base), choice.differences)]
    refuse(folder.path.name, found, length_problem(before, total_steps, num_done, config), config)
    span = extended(before, total_steps, config)
    notes = (
        *_note_of_span(before, span, config),
        *_note_of_base(config, then["base"], bool(checkpoints)),
        *_note_of_rounding(record["machinery"], machinery),
    )
    return Start(machinery, span, base, tuple(record.get("fingerprints", ())), tuple(found), notes)


def base_of(config: ExperimentConfig, folder: Path, start: Start) -> str | None:
    """Returns the fingerprint of the weights that a run begins with, once its model has been built.

    Args:
        config: of the run.
        folder: of the run.
        start: what a run that is continued knows already.
    """
    if start.fingerprints and (start.base is not None or not isinstance(config.training.adapter, LoraConfig)):
        return start.base
    if config.model.pretrained:
        return base_fingerprint(config.model.name, config.model.revision)
    return base_fingerprint(str(folder / BASE_FOLDER)) if (folder / BASE_FOLDER).is_dir() else None


def fingerprint_history(earlier: Sequence[Fingerprints], now: Fingerprints) -> list[Fingerprints]:
    """Returns the fingerprints that a run was executed with up to now, for `run.json`."""
    return [*earlier, *([] if now in earlier[-1:] else [now])]


def refuse_foreign_checkpoint(
    path: Path,
    found: Fingerprints,
    now: Fingerprints,
    earlier: Sequence[Fingerprints],
    config: ExperimentConfig,
) -> None:
    """Compares a checkpoint's fingerprints with everything that its run was executed with.

    Args:
        path: of the checkpoint.
        found: its fingerprints.
        now: those of this execution.
        earlier: those of earlier ones.
        config: of the run.

    Raises:
        ResumeError: if it was made with others.
    """
    if all(_known_differences(found, known, list(found)) for known in (now, *earlier)):
        refuse(str(path), _known_differences(found, now, list(found)), None, config)


def _machinery(config: ExperimentConfig, cache: TokenCache, then: Machinery) -> Machinery:
    """A run that is continued keeps what `auto` stood for, where this machine can; a key that is given wins."""
    hardware, device = config.hardware, _device_of(config)
    keeps_precision = (
        config.training.precision == "auto"
        and "precision" not in config.resume_allow
        and _can_compute(then.precision, device)
    )
    # Everything else is asked for as what is kept would have it.
    kept = {"num_threads": then.num_threads} if hardware.num_threads == "auto" else {}
    kept |= {"compile": then.is_compiled} if hardware.compile == "auto" else {}
    training = config.training.model_copy(update={"precision": then.precision} if keeps_precision else {})
    fixed = config.model_copy(update={"training": training, "hardware": hardware.model_copy(update=kept)})
    precision = resolve_precision(training.precision, device)
    keeps_attention = config.model.attention == "auto" and missing_for(then.attention, device, precision) is None
    return resolve_machinery(
        fixed,
        cache,
        auto_tokens=then.micro_batch_tokens if device == then.device else None,
        attention=AttentionChoice(then.attention, then.attention_reason) if keeps_attention else None,
    )


def _device_of(config: ExperimentConfig) -> str:
    return resolve_device(config.hardware.device)


def _can_compute(precision: str, device: str) -> bool:
    try:
        return resolve_precision(precision, device) == precision
    except HardwareError:
        return False


def _base(config: ExperimentConfig, folder: Path, then: str | None) -> str | None:
    """Returns the fingerprint of the weights under the adapter, as they are now.

    Where every weight is tuned, all of them are in the checkpoint, and what they once began with is not read again.

    Raises:
        ModelError: if the weights of then are gone.
    """
    if not isinstance(config.training.adapter, LoraConfig):
        return then
    if config.model.pretrained:
        return base_fingerprint(config.model.name, config.model.revision)
    saved = folder / BASE_FOLDER
    if saved.is_dir():
        return base_fingerprint(str(saved))
    if then is not None:
        raise ModelError(f"{saved}: missing, and the run's adapter was trained on the weights in it; put it back")
    return None


def _recorded_facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the run was executed with, as `run.json` tells; None for what it does not tell."""
    data, machinery = record.get("data") or {}, record["machinery"]
    last = (record.get("fingerprints") or [{}])[-1]
    return {
        "data": data.get("data_fingerprint"),
        "tokenizer": last.get("tokenizer"),
        "tokens": last.get("data"),
        "base": last.get("base"),
        **{name: machinery[name] for name in ("precision", "num_processes", "device")},
    }


def _present_facts(cache: TokenCache, machinery: Machinery, base: str | None) -> dict[str, Any]:
    return {
        "data": cache.data_fingerprint,
        "tokenizer": cache.tokenizer.fingerprint,
        "tokens": cache.fingerprint,
        "base": base,
        **{name: getattr(machinery, name) for name in ("precision", "num_processes", "device")},
    }


def _compare(then: Mapping[str, Any], now: Mapping[str, Any], keys: Sequence[Difference]) -> list[Difference]:
    """Returns the facts that differ; tokens only where nothing else tells why they do."""
    found = _known_differences(then, now, FACTS)
    explained = any(difference.key.startswith("data.") for difference in keys) or any(
        difference.key in ("data", "tokenizer") for difference in found
    )
    return [difference for difference in found if difference.key != "tokens" or not explained]


def _known_differences(then: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str]) -> list[Difference]:
    """What one side does not know says nothing."""
    known = [name for name in names if then.get(name) is not None and now.get(name) is not None]
    return differences({name: _short(then[name]) for name in known}, {name: _short(now[name]) for name in known})


def _short(value: Any) -> Any:
    """A fingerprint is known by its first characters."""
    return value[:_NUM_SHOWN_CHARACTERS] if isinstance(value, str) else value


def _note_of_span(before: Span | None, span: Span, config: ExperimentConfig) -> list[str]:
    if before is None or before == span or not depends_on_length(config.training.schedule):
        return []
    if span.schedule_steps == span.total_steps:
        steps = f"{span.schedule_steps:,} steps instead of {before.schedule_steps:,}"
        return [f"note: from here on the learning rate is laid over {steps}"]
    return [
        f"note: the learning rate stays laid over {span.schedule_steps:,} of the run's {span.total_steps:,} steps"
        + ("; its last value goes on after them" if span.total_steps > span.schedule_steps else "")
    ]


def _note_of_rounding(then: Mapping[str, Any], now: Machinery) -> list[str]:
    changed = [
        f"{name} {then[name]} -> {getattr(now, name)}"
        for name in ("micro_batch_tokens", "num_threads", "attention", "is_compiled")
        if then.get(name) is not None and then[name] != getattr(now, name)
    ]
    if not changed:
        return []
    return [f"note: {', '.join(changed)}: sums round in another way, so the last digits are not those of before"]


def _note_of_base(config: ExperimentConfig, then: str | None, has_checkpoint: bool) -> list[str]:
    if isinstance(config.training.adapter, LoraConfig) and then is None and has_checkpoint:
        return ["note: the run's record names no base weights, so they cannot be compared with those of now"]
    return []


def check_saved_step(
    folder: RunFolder | None, found: Checkpoint | None, *, is_strict: bool, report: Callable[[str], None]
) -> None:
    """Notices that the newest checkpoint of a run was removed as a whole.

    Args:
        folder: of the run; None knows of none.
        found: the newest checkpoint that is there.
        is_strict: whether that is refused instead of fallen back from.
        report: gets one line where an earlier checkpoint is taken.

    Raises:
        CheckpointError: if there is no earlier one, or falling back is refused.
    """
    saved = folder.read_record().get("saved_step") if folder is not None else None
    if folder is None or not isinstance(saved, int) or (found is not None and step_of(found.path) >= saved):
        return
    path = folder.checkpoints_path / folder_name(saved)
    if path.exists():  # it is damaged, which has been said
        return
    if found is None:
        raise CheckpointError(
            f"{path}: is gone, and there is no other checkpoint; put it back, or train without resume=... again"
        )
    if is_strict:
        raise CheckpointError(f"{path}: is gone; put it back, or fall back to {found.path.name} without resume_strict")
    report(f"warning: {path}: is gone; falling back to {found.path.name}")
