"""Which run a reference means: `latest`, a folder, a run id or its start, a run name, `best:SWEEP`."""

from __future__ import annotations

import difflib
import glob
import math
import os
from pathlib import Path

from recipe_exp.config.evaluation import LOWER_IS_BETTER
from recipe_exp.config.messages import show_path, show_value
from recipe_exp.errors import CheckpointError
from recipe_exp.tracking.record_file import RECORD_NAME
from recipe_exp.tracking.run_folder import FOLDERS, RunFolder, list_runs

BEST = "best:"
"""Before the reference of a sweep: its best trial."""

_MAX_NAME_LENGTH = 250
_MAX_LISTED = 5


def find_run(output_dir: Path, reference: str) -> RunFolder:
    """The one run that `reference` names.

    Args:
        output_dir: where the runs are.
        reference: `latest`, a folder, a run id or its unique start, a run name, or `best:` and one of these for a
            sweep, which means its best trial (`best:latest` that of the newest sweep).

    Raises:
        CheckpointError: no run or more than one answers to it; the message lists the nearest ones.
    """
    if reference.startswith(BEST):
        return _best_trial(output_dir, reference.removeprefix(BEST))
    # `os.path` answers where pathlib raises: for a name that is too long.
    if reference and os.path.isfile(Path(reference) / RECORD_NAME):  # noqa: PTH113
        return RunFolder.open(Path(reference))
    runs = list_runs(output_dir)
    if reference == "latest":
        newest = next((folder for folder in runs if folder.path.parent.name == FOLDERS["run"]), None)
        if newest is not None:
            return newest
    matches = _matches(runs, reference)
    if len(matches) == 1:
        return matches[0]
    _refuse_unreadable(output_dir, reference)
    raise CheckpointError(_explain_reference(output_dir, reference, runs, matches))


def _best_trial(output_dir: Path, reference: str) -> RunFolder:
    """The finished trial with the best value of its `evaluation.best_metric`."""
    sweeps = list_runs(output_dir, kind="sweep")
    sweep = sweeps[0] if reference == "latest" and sweeps else find_run(output_dir, reference)
    shown = show_value(f"{BEST}{reference}")
    if sweep.read_record().get("kind") != "sweep":
        raise CheckpointError(f"run {shown}: {sweep.path.name} is no sweep; name it without {BEST}")
    ranked = []
    for folder in list_runs(output_dir, kind="run"):
        record = folder.read_record()
        best = record.get("best") or {}
        value = best.get("value")
        is_trial = record.get("parent_run_id") == sweep.run_id
        is_whole = record.get("status") == "finished" and record.get("stop_reason") != "pruned"
        if is_trial and is_whole and isinstance(value, int | float) and math.isfinite(value):
            metric = str(best.get("metric"))
            ranked.append((metric, value if metric in LOWER_IS_BETTER else -value, folder.run_id, folder))
    if not ranked:
        raise CheckpointError(f"run {shown}: no trial of {sweep.path.name} has finished and was evaluated")
    if len({metric for metric, *_ in ranked}) > 1:
        raise CheckpointError(f"run {shown}: its trials were judged by different metrics; name one of them")
    return min(ranked, key=lambda entry: entry[:3])[-1]


def _refuse_unreadable(output_dir: Path, reference: str) -> None:
    """A run that cannot be read is in no list; asked for by its id, it says why."""
    for name in FOLDERS.values() if reference and "/" not in reference else ():
        for path in (output_dir.absolute() / name).glob(f"{glob.escape(reference)}*/"):
            RunFolder.open(path)


def _matches(runs: list[RunFolder], reference: str) -> list[RunFolder]:
    if not reference:
        return []
    exact = [folder for folder in runs if reference in (folder.run_id, folder.path.name)]
    if exact:
        return exact
    named = [folder for folder in runs if folder.read_record().get("run_name") == reference]
    return named or [folder for folder in runs if folder.run_id.startswith(reference)]


def _explain_reference(output_dir: Path, reference: str, runs: list[RunFolder], matches: list[RunFolder]) -> str:
    shown, place = show_value(reference), show_path(output_dir)
    if matches:
        listed = ", ".join(folder.run_id for folder in matches[:_MAX_LISTED])
        return f"run {shown}: {len(matches)} runs answer to it ({listed}); give one run id"
    if not runs:
        return f"run {shown}: there are no runs under {place}; train one, or set output_dir"
    names = {str(name): folder for folder in runs for name in _names(folder)}
    near = difflib.get_close_matches(reference[:_MAX_NAME_LENGTH], names, n=_MAX_LISTED, cutoff=0.5)
    listed = ", ".join(near or [folder.path.name for folder in runs[:_MAX_LISTED]])
    kind = "nearest" if near else "newest"
    return f"run {shown}: no such run under {place}; {kind}: {listed}"


def _names(folder: RunFolder) -> list[str]:
    return [str(folder.read_record().get("run_name", "")), folder.run_id]
