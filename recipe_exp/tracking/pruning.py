"""How a sweep ends a trial early: the trial evaluates, the sweep answers in a file whether it is to go on.

A file is seen on every machine that shares the sweep's folder, and neither side needs the other: without an answer a
trial goes on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from recipe_exp.files import write_atomically
from recipe_exp.tracking.run_folder import TRIAL_VARIABLE, RunFolder

PRUNING_VARIABLE = "RECIPE_EXP_PRUNING"
"""Tells a trial's process the folder of the answers; only set where trials are pruned."""
ANSWER_SECONDS = 5.0

_FOLDER = "pruning"
_POLL_SECONDS = 0.02


def pruning_folder(sweep: RunFolder) -> Path:
    """Returns the folder of a sweep's answers."""
    return sweep.path / _FOLDER


def answer_trial(sweep: RunFolder, trial: str, step: int, *, is_pruned: bool) -> None:
    """Tells a trial whether to go on after the evaluation at `step`."""
    folder = pruning_folder(sweep)
    folder.mkdir(exist_ok=True)
    write_atomically(folder / f"{trial}.json", json.dumps({"step": step, "prune": bool(is_pruned)}).encode())


def pruning_question(timeout_seconds: float = ANSWER_SECONDS) -> Callable[[int], bool] | None:
    """Returns what tells this process after an evaluation whether its run is to end; None where nobody prunes.

    Args:
        timeout_seconds: longest wait for an answer, after which the run goes on.
    """
    folder, trial = os.environ.get(PRUNING_VARIABLE), os.environ.get(TRIAL_VARIABLE)
    if not folder or not trial:
        return None
    path = Path(folder) / f"{trial}.json"

    def is_pruned(step: int) -> bool:
        deadline = time.monotonic() + timeout_seconds
        while True:
            with suppress(OSError, ValueError, KeyError, TypeError):
                answer = json.loads(path.read_bytes())
                if int(answer["step"]) >= step:
                    return bool(answer["prune"])
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)

    return is_pruned
