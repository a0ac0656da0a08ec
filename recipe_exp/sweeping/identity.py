"""What makes two trials the same trial, and two sweeps the same sweep: what alters numbers, and nothing else."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe_exp.config.data import DataConfig
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.groups import GROUPS
from recipe_exp.config.relevance import is_free, numbers_relevant
from recipe_exp.secrets import redact

_KEY_CHARACTERS = 12
# Their names are no files of this machine.
_NAMED_DATA = ("sample", "huggingface")


def trial_key(config: ExperimentConfig, varying: Mapping[str, str]) -> str:
    """Returns the same text for every trial that computes the same numbers for the same purpose.

    Args:
        config: of the trial.
        varying: the swept keys with the trial's values; of those that alter no number, such as `hardware.compile`,
            and of groups, the values are part of what is compared.
    """
    chosen = {key: value for key, value in varying.items() if key in GROUPS or is_free(key)}
    return digest([identity_of(config), chosen])


def identity_of(config: ExperimentConfig) -> dict[str, Any]:
    """Returns what a configuration's numbers depend on; of data files their names and sizes, wherever they lie."""
    relevant = numbers_relevant(config)
    relevant["data.path"] = _files_of(config.data)
    return {**relevant, "task": config.task.model_dump(mode="json")}


def common_part(identities: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the keys on which all identities agree."""
    first, *others = identities
    return {key: value for key, value in first.items() if all(other.get(key, ...) == value for other in others)}


def digest(value: object) -> str:
    """Returns a short fingerprint of plain data."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_CHARACTERS]


def _files_of(data: DataConfig) -> Any:
    """Files that were moved are the same data, files that have grown are not; a run compares their contents too.

    It is recorded, so a name that holds a secret is without it.
    """
    if data.path is None or data.format in _NAMED_DATA:
        return data.path
    path = Path(data.path).expanduser()
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return [[redact(file.relative_to(path).as_posix()), file.stat().st_size] for file in files]
    files = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207 - of any folder
    return [[redact(file.name), file.stat().st_size] for file in files if file.is_file()] or redact(data.path)
