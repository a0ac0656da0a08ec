"""What a task says, as a JSON file for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipe_exp.errors import ConfigError
from recipe_exp.files import write_result


def save_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes strict JSON; a number that JSON cannot express becomes null.

    Raises:
        ConfigError: if the file cannot be written.
    """
    text = json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_result(path, text.encode())
    except OSError as error:
        raise ConfigError([f"task.output={path}: cannot be written ({error.strerror}); choose another file"]) from None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
