"""`task=rerun`: a run trained anew as it was, and whether its numbers are the same."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.messages import show_path, show_setting
from recipe_exp.config.relevance import FACTS, Difference, changes, overlay
from recipe_exp.config.task import RerunTask, TrainTask
from recipe_exp.errors import CheckpointError, ConfigError, ResumeError
from recipe_exp.reports.run_diff import diff_runs
from recipe_exp.reports.run_summary import read_summary
from recipe_exp.tasks.checks import check
from recipe_exp.tasks.data import open_data
from recipe_exp.tasks.running.resuming import changed_facts
from recipe_exp.tasks.train import train
from recipe_exp.tracking import RunFolder, collect_provenance, find_run, provenance_changes

_CODE = ("commit", "patch")
_LENGTH = "schedule_steps"
_NAMES = (*FACTS, *_CODE, _LENGTH)
_NOT_RESUMED: dict[str, Any] = {"resume": None, "resume_strict": False, "resume_allow": (), "resume_schedule": None}
_SHORT_COMMIT = 12
_MAX_CHANGES = 5


def run(config: ExperimentConfig) -> int:
    """Refuses what would not be the same run, trains, compares, and returns the exit code of the training."""
    task = config.task
    assert isinstance(task, RerunTask)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    folder = find_run(Path(config.output_dir), task.run)
    record = folder.read_record()
    repeated = _config_of(folder, record, config)
    check(repeated)
    provenance = collect_provenance()
    found = [*_changed_code(record, provenance), *_changed_length(record)]
    # What the code explains is not looked for in the data.
    _refuse(folder, found, task.allow)
    found += changed_facts(repeated, open_data(repeated, console), record)
    _refuse(folder, found, task.allow)
    _print_notes(console, folder, record, provenance, found)
    result = train(repeated, like=folder.path)
    if result.folder is not None:
        said = diff_runs(read_summary(folder), read_summary(RunFolder.open(result.folder))).conclusion
        console.print(Text(f"beside {folder.run_id}: {said}"))
    return result.exit_code


def _config_of(folder: RunFolder, record: Mapping[str, Any], config: ExperimentConfig) -> ExperimentConfig:
    """The run's own configuration, with what the command says of the machine, the record and names.

    Raises:
        ConfigError: if the command changes what changes numbers, or permits what is no name.
        CheckpointError: if the run has never begun.
    """
    if record.get("kind") != "run" or record.get("machinery") is None:
        reason = "is no single run; name one of its trials" if record.get("kind") != "run" else "never began to train"
        raise CheckpointError(f"task.run={folder.run_id}: {reason}, so there is nothing to repeat")
    stored, usual = ExperimentConfig.from_yaml(folder.config_path), compose()
    mistakes = [
        f"{each.key}: task=rerun repeats a run as it was ({each}); leave the key out, or train with it instead"
        for each in changes(stored, config, usual)
    ]
    assert isinstance(config.task, RerunTask)
    unknown = [name for name in config.task.allow if name not in _NAMES]
    mistakes += [f"{show_setting('task.allow', name)}: no such name; there are {', '.join(_NAMES)}" for name in unknown]
    if mistakes:
        raise ConfigError(mistakes)
    as_it_was = {
        "task": TrainTask(),
        "output_dir": config.output_dir,
        "run_name": config.run_name or f"{record['run_name']} rerun",
        **_NOT_RESUMED,
    }
    return overlay(stored, config, usual).model_copy(update=as_it_was)


def _changed_code(record: Mapping[str, Any], provenance: Mapping[str, Any]) -> list[Difference]:
    """What is not known on one side, as outside a repository, says nothing."""
    then, now = (each.get("git") or {} for each in (record.get("provenance") or {}, provenance))
    if not then.get("commit") or not now.get("commit"):
        return []
    pairs = {
        "commit": tuple(str(git["commit"])[:_SHORT_COMMIT] for git in (then, now)),
        "patch": tuple(_describe_patch(git, then) for git in (then, now)),
    }
    return [Difference(name, *pair) for name, pair in pairs.items() if pair[0] != pair[1]]


def _describe_patch(git: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    patch = str(git.get("patch") or "")
    if not patch:
        return "nothing uncommitted"
    shown = f"{len(patch.splitlines()):,} lines uncommitted"
    return shown if patch == str(first.get("patch") or "") else f"{shown} (others)"


def _changed_length(record: Mapping[str, Any]) -> list[Difference]:
    """A run that was continued to another length learnt under another schedule than one of that length at once."""
    total, schedule = record.get("total_steps"), record.get("schedule_steps")
    return [Difference(_LENGTH, schedule, total)] if total != schedule and schedule is not None else []


def _refuse(folder: RunFolder, found: Sequence[Difference], allowed: Sequence[str]) -> None:
    forbidden = [difference for difference in found if difference.key not in allowed]
    if not forbidden:
        return
    names = ",".join(dict.fromkeys([*allowed, *(difference.key for difference in forbidden)]))
    lines = [
        f"rerun: {folder.path.name} would not be the same run",
        *(f"  {difference}" for difference in forbidden),
        *_way_back(folder, forbidden),
        f"set back what differs; {shlex.quote(f'task.allow=[{names}]')} trains all the same",
    ]
    raise ResumeError("\n".join(lines))


def _way_back(folder: RunFolder, forbidden: Sequence[Difference]) -> list[str]:
    commit = next((each.then for each in forbidden if each.key == "commit"), None)
    steps = [f"git checkout {commit}"] if commit else []
    if any(each.key == "patch" and each.then != "nothing uncommitted" for each in forbidden):
        steps.append(f"jq -r .provenance.git.patch {shlex.quote(show_path(folder.record_path))} | git apply")
    return [f"the code of then: {'; '.join(steps)}"] if steps else []


def _print_notes(
    console: Console,
    folder: RunFolder,
    record: Mapping[str, Any],
    provenance: Mapping[str, Any],
    permitted: Sequence[Difference],
) -> None:
    notes = [f"note: permitted to differ from {folder.run_id}: {difference}" for difference in permitted]
    later = provenance_changes(record.get("provenance"), provenance)
    drifted = [change for change in later if not change.startswith("commit ")]
    if drifted:
        more = f" and {len(drifted) - _MAX_CHANGES} more" if len(drifted) > _MAX_CHANGES else ""
        listed = "; ".join(drifted[:_MAX_CHANGES])
        notes.append(f"note: since then: {listed}{more}; numbers may differ in the last digits")
    if any(execution.get("changes") for execution in record.get("executions", [])):
        notes.append("note: the run was continued with other values on its way; it is repeated with its last ones")
    for note in notes:
        console.print(Text(note, "yellow"))
