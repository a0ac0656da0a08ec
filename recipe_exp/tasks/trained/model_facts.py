"""What a model card says of a run, gathered from its folder; no path of this machine and no secret is among it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.messages import show_value
from recipe_exp.config.relevance import flatten
from recipe_exp.models.certificate import Certificate
from recipe_exp.reports.model_card import ModelCard, Origin
from recipe_exp.secrets import redact
from recipe_exp.tasks.trained.loading import StoredRun
from recipe_exp.training.checkpoint import step_of

# What places, names or repeats a run says nothing of the model.
_UNTOLD = (
    *("task", "output_dir", "run_name", "description", "tags", "tracking", "hardware", "data.path", "data.cache_dir"),
    *("resume", "resume_strict", "resume_allow", "resume_schedule", "model.revision", "training.callbacks"),
)
_PACKAGES = ("recipe-exp", "torch", "transformers", "peft", "tokenizers")


def describe(
    stored: StoredRun, certificate: Certificate, license_name: str | None, prompt: str, max_new_tokens: int
) -> ModelCard:
    """Returns everything that the card of a run's model says.

    Args:
        stored: the run.
        certificate: of the written folder.
        license_name: as it was given.
        prompt: an example.
        max_new_tokens: longest recipe.
    """
    record, config = stored.folder.read_record(), stored.config
    step = _step_of(stored, record)
    return ModelCard(
        # Secrets are looked for before Markdown's escapes come between their letters.
        title=redact(str(record.get("run_name") or record.get("run_id"))),
        license=license_name,
        origin=_origin(record, config),
        how=_how(config),
        step=step,
        data=record.get("data") or {},
        settings=list(_settings(config)),
        metrics=_metrics(stored.folder.metrics_path, step),
        best=(record.get("best") or {}).get("metric"),
        machine=[redact(fact) for fact in _machine(record)],
        certificate=certificate.content,
        failures=certificate.failures,
        prompt=prompt,
        max_new_tokens=max_new_tokens,
    )


def _step_of(stored: StoredRun, record: Mapping[str, Any]) -> int | None:
    if stored.model != stored.folder.model_path:
        return step_of(stored.model)
    return (record.get("best") or {}).get("step")


def _origin(record: Mapping[str, Any], config: ExperimentConfig) -> Origin:
    if not config.model.pretrained:
        return Origin(None)
    name = config.model.name
    is_local = os.path.isabs(name) or name.startswith(("~", ".")) or Path(name).exists()  # noqa: PTH117
    fingerprints = record.get("fingerprints") or []
    return Origin(
        redact(Path(name).name) if is_local else name,
        is_public=not is_local,
        revision=config.model.revision,
        commit=record.get("model_commit"),
        fingerprint=fingerprints[-1].get("base") if fingerprints else None,
    )


def _how(config: ExperimentConfig) -> str:
    way = "through an adapter, which is merged into the weights" if config.training.adapter.kind != "none" else "whole"
    return f"A T5 that writes recipes, tuned {way}, by recipe_exp. It answers a prompt with a recipe in Markdown."


def _settings(config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    usual, own = (dict(flatten(one.model_dump(mode="json"))) for one in (compose(), config))
    for key, value in own.items():
        is_untold = any(key == name or key.startswith(f"{name}.") for name in _UNTOLD)
        if not is_untold and usual.get(key, ...) != value:
            yield key, _without_paths(value)


def _without_paths(value: Any) -> str:
    if isinstance(value, str) and (os.path.isabs(value) or value.startswith(("~", "./", "../"))):  # noqa: PTH117
        return f"{redact(Path(value).name)} (a local path)"
    return show_value(value)


def _metrics(path: Path, step: int | None) -> list[tuple[str, float | None, float | None]]:
    """Returns every metric of an evaluation: at the step, and at the first one of the run."""
    evaluations: dict[int, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
            found = {name: value for name, value in entry["metrics"].items() if name.startswith("eval/")}
        except (ValueError, KeyError, TypeError, AttributeError):  # a full disk cut the line
            continue
        if found:
            evaluations.setdefault(int(entry["step"]), {}).update(found)
    if step not in evaluations:
        return []
    first = evaluations[min(evaluations)]
    return [(name, value, first.get(name)) for name, value in sorted(evaluations[step].items())]


def _machine(record: Mapping[str, Any]) -> Iterator[str]:
    machinery, provenance = record.get("machinery") or {}, record.get("provenance") or {}
    if machinery:
        yield (
            f"{machinery.get('num_processes', 1)} x {machinery.get('device_name', machinery.get('device'))}, computed "
            f"in {machinery.get('precision')}"
        )
    if provenance.get("cpu"):
        yield f"processor {provenance['cpu']}"
    packages = provenance.get("packages") or {}
    versions = [f"{name} {packages[name]}" for name in _PACKAGES if name in packages]
    if versions:
        yield ", ".join([f"Python {provenance.get('python', 'unknown')}", *versions])
    git = provenance.get("git") or {}
    if git.get("commit"):
        yield f"code at commit {git['commit']}{', with changes that were not committed' if git.get('dirty') else ''}"
