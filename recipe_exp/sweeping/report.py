"""What came of a sweep's trials, kept as `sweep.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recipe_exp.files import write_atomically
from recipe_exp.sweeping.grid import Trial, swept_values
from recipe_exp.sweeping.outcomes import Outcome, best_outcome


def write_summary(path: Path, run_id: str, trials: Sequence[Trial], outcomes: Mapping[int, Outcome]) -> None:
    """Writes `sweep.json`: what was swept, and what has come of each trial that has ended.

    Args:
        path: replaced as a whole, so that a reader never sees half of it.
        run_id: the sweep's.
        trials: all of them.
        outcomes: by the trial's number.
    """
    best = best_outcome(list(outcomes.values()))
    summary = {
        "sweep": run_id,
        "swept": swept_values(trials),
        "best_trial": best.trial.number if best else None,
        "trials": [_as_data(outcomes[trial.number]) for trial in trials if trial.number in outcomes],
    }
    write_atomically(path, json.dumps(summary, indent=2, ensure_ascii=False).encode())


def _as_data(outcome: Outcome) -> dict[str, Any]:
    best = outcome.best
    return {
        "trial": outcome.trial.number,
        "varying": dict(outcome.trial.varying),
        "overrides": list(outcome.trial.overrides),
        "state": outcome.state,
        "exit_code": outcome.exit_code,
        "seconds": round(outcome.seconds, 3),
        "run_folder": outcome.run_folder,
        "run_id": outcome.run_id,
        "step": outcome.step,
        "best": {"metric": best.metric, "value": _json_number(best.value), "step": best.step} if best else None,
        "error": outcome.error,
    }


def _json_number(value: float) -> float | None:
    return value if math.isfinite(value) else None
