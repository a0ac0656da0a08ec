"""`run.json` as it is read back: of bounded size, and with every field that is relied on of its type."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from recipe_exp.config.messages import show_path, show_value
from recipe_exp.config.migrations import migrate_record
from recipe_exp.errors import CheckpointError
from recipe_exp.files import read_regular_file

RECORD_NAME = "run.json"
MAX_RECORD_BYTES = 32 * 2**20

_MAPPINGS = ("mlflow", "machinery", "data", "best", "provenance")
_LISTS = ("executions", "command", "fingerprints")
_TEXTS = ("run_id", "run_name", "kind", "status", "host", "user", "error", "parent_run_id", "trial", "stop_reason")
_NUMBERS = ("created", "updated", "step", "total_steps", "schedule_steps", "pid")
_RUN_ID = re.compile(r"[\w.,=-]{1,200}", re.ASCII)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Returns the content of a folder's `run.json` as the present version would have written it, None without one.

    Raises:
        CheckpointError: it cannot be read, or a field of it is not what this package writes there.
    """
    path = folder / RECORD_NAME
    try:
        record = json.loads(read_regular_file(path, MAX_RECORD_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no JSON in UTF-8"
        raise CheckpointError(f"{show_path(path)}: cannot be read ({reason or error}); copy the run again") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{show_path(path)}: is not a JSON object; copy the run again")
    wrong = next((name for name in record if not _is_of_its_type(name, record[name])), None)
    if wrong is not None:
        value = show_value(record[wrong])
        raise CheckpointError(f"{show_path(path)}: {wrong}={value} is nothing that a run records; copy the run again")
    return migrate_record(record, show_path(path))


def _is_of_its_type(name: str, value: Any) -> bool:
    if name == "run_id":
        return isinstance(value, str) and _RUN_ID.fullmatch(value) is not None
    if value is None:
        return name != "created"
    if name in _NUMBERS:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # A number of more digits than a float holds is no number of steps or seconds either.
        return is_number and abs(value) < 2**63 and math.isfinite(value)
    kind = dict if name in _MAPPINGS else list if name in _LISTS else str if name in _TEXTS else object
    return isinstance(value, kind)
