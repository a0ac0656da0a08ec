"""`task=train`: from a configuration to a run folder with a model in it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.data.split import Split
from recipe_exp.data.tokens.cache import TokenCache
from recipe_exp.errors import ConfigError
from recipe_exp.files import is_process_alive
from recipe_exp.hardware import accelerator as processes
from recipe_exp.hardware.detect import resolve_device, resolve_num_processes
from recipe_exp.hardware.processes import is_main_process, is_worker, run_processes
from recipe_exp.models.download import find_commit
from recipe_exp.signals import Interrupted
from recipe_exp.tasks import summary
from recipe_exp.tasks.data import describe_data, open_data
from recipe_exp.tasks.data_card import DATA_CARD_HTML, record_data
from recipe_exp.tasks.evaluation_report import PREDICTIONS_FOLDER
from recipe_exp.tasks.references import origin_of, resolve_references
from recipe_exp.tasks.running.callbacks import build_trainer, checkpoint_callback, describe_best, notify_callbacks
from recipe_exp.tasks.running.disk_space import check_disk_space
from recipe_exp.tasks.running.out_of_memory import out_of_memory_in_one_line
from recipe_exp.tasks.running.planned import plan_training
from recipe_exp.tasks.running.predictions import rewind_predictions
from recipe_exp.tasks.running.report import write_run_report
from recipe_exp.tasks.running.resuming import (
    Start,
    check_saved_step,
    fingerprint_history,
    new_start,
    repeated_start,
    resumed_start,
)
from recipe_exp.tasks.running.run_choice import RunChoice, choose_run
from recipe_exp.tasks.running.session import RunSession, open_session, resume_command
from recipe_exp.tasks.running.step_lines import rewind_lines
from recipe_exp.tasks.running.workbench import Workbench
from recipe_exp.tracking import RunFolder, list_runs, mark_interrupted, remove_unbegun
from recipe_exp.training import checkpoint
from recipe_exp.training.callbacks.callback import Callback
from recipe_exp.training.lifecycle import StopReason
from recipe_exp.training.trainer import Trainer

_LAUNCHER_PREFIX = "recipe_exp-"


@dataclass(frozen=True)
class TrainResult:
    """What a training run left behind.

    Attributes:
        folder: the run folder; None where another process holds it.
        status: `finished`, `interrupted` or `failed`.
        exit_code: of the process.
        metrics: the last value of every metric.
        best: the best evaluated step, its metric and value; None without an evaluation.
    """

    folder: Path | None
    status: str
    exit_code: int
    metrics: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] | None = None


def run(config: ExperimentConfig) -> int:
    """Runs the task and returns the process's exit code."""
    return train(config).exit_code


def train(config: ExperimentConfig, callbacks: Sequence[Callback] = (), *, like: Path | None = None) -> TrainResult:
    """Trains as configured.

    Args:
        config: the whole configuration.
        callbacks: beside those of `training.callbacks`.
        like: folder of a run that is repeated, on the machinery that it had; None asks the machine.

    Raises:
        RecipeExpError: for every mistake that a user can mend.
    """
    config = resolve_references(_with_absolute_path(config))
    # A run that is continued by its id brings its number of processes along.
    chosen = None if is_worker() else _choose(config, like)
    hardware = chosen.config.hardware if chosen else config.hardware
    device = resolve_device(hardware.device)
    num_processes = resolve_num_processes(hardware, device)
    if num_processes > 1 and not is_worker():
        return _train_in_processes(chosen or RunChoice(config, like=like), num_processes, callbacks)
    choice: RunChoice = chosen or processes.from_main_process(lambda: _choose(config, like), device=device)
    console = Console(quiet=not is_main_process(), soft_wrap=True, markup=False)
    if choice.is_finished and choice.folder is not None:
        console.print(f"{choice.folder.name} is finished already; nothing to do", highlight=False)
        return TrainResult(choice.folder, "finished", 0)
    if choice.note is not None:
        console.print(choice.note, style="yellow", highlight=False)
    session: RunSession | None = None
    try:
        with _session(choice) as session:
            result = _train(choice, session, console, device, callbacks)
            if session is not None:
                summary.print_results(console, session, result.metrics)
    except Interrupted as interruption:
        if session is None:
            raise
        result = TrainResult(session.folder.path, session.status, interruption.exit_code)
    finally:
        processes.leave_processes()
    if session is not None:
        summary.print_end(console, choice.config, session)
    return result


def _with_absolute_path(config: ExperimentConfig) -> ExperimentConfig:
    """A run may be continued from another folder than it was started in."""
    if config.data.path is None or config.data.format == "huggingface":
        return config
    path = str(Path(config.data.path).expanduser().absolute())
    return config.model_copy(update={"data": config.data.model_copy(update={"path": path})})


def _choose(config: ExperimentConfig, like: Path | None) -> RunChoice:
    """Chooses the run, after every run that was killed has been marked as what it is."""
    for folder in list_runs(Path(config.output_dir)):
        with suppress(OSError):  # somebody else's run
            if not remove_unbegun(folder):
                mark_interrupted(folder)
    return choose_run(config) if like is None else RunChoice(config, like=like)


def _train(
    choice: RunChoice, session: RunSession | None, console: Console, device: str, callbacks: Sequence[Callback]
) -> TrainResult:
    """Builds everything from the bottom up, trains, and closes the books."""
    config = choice.config
    summary.print_begin(console, config, session)
    cache = open_data(config, console)
    start: Start = processes.from_main_process(lambda: _start(choice, cache, session), device=device)
    run_folder = _folder(session, device)
    processes.from_main_process(lambda: _look_at_disk(config, run_folder, start, console), device=device)
    planned = plan_training(config, cache, start.machinery, session, console)
    bench = Workbench.build(config, cache, start, run_folder)
    checkpoints = checkpoint_callback(bench, session, console)
    trainer = build_trainer(
        bench,
        session,
        console,
        [*callbacks, checkpoints, *notify_callbacks(bench, session, checkpoints)],
        restore=lambda trainer: _restore(trainer, bench, session, console),
    )
    if session is not None:
        _warn_of_long_warmup(console, config, bench.length.total_steps)
        summary.print_data(console, bench.cache, session.folder.path / DATA_CARD_HTML)
        summary.print_machinery(console, bench.length.total_steps, bench.machinery)
    with out_of_memory_in_one_line(bench, session):
        reason = trainer.fit()
    if session is not None:
        session.status = reason.status
        planned.record(session, trainer)
        if reason.status == "finished":
            write_run_report(session, config, cache, console)
        _record_end(session, config, trainer, reason)
    return TrainResult(
        folder=session.folder.path if session else None,
        status=reason.status,
        exit_code=reason.exit_code,
        metrics=trainer.metrics,
        best=describe_best(config.evaluation.best_metric, checkpoints.best),
    )


def _look_at_disk(config: ExperimentConfig, run_folder: Path, start: Start, console: Console) -> None:
    for leftover in checkpoint.remove_leftovers(run_folder / "checkpoints"):
        console.print(f"removed {leftover.name}, left by an interrupted save", highlight=False)
    check_disk_space(
        config, run_folder, start.span.total_steps, lambda line: console.print(line, style="yellow", highlight=False)
    )


def _warn_of_long_warmup(console: Console, config: ExperimentConfig, total_steps: int) -> None:
    if config.training.warmup_steps >= total_steps:
        console.print(
            f"warning: training.warmup_steps={config.training.warmup_steps}: the run has {total_steps} steps, so the "
            "learning rate never reaches its peak; lower it",
            style="yellow",
        )


def _restore(trainer: Trainer, bench: Workbench, session: RunSession | None, console: Console) -> None:
    """Continues from the newest checkpoint that is whole; a damaged one is named and passed over."""
    found = bench.find_checkpoint(
        is_strict=bench.config.resume_strict, report=lambda line: console.print(line, style="yellow", highlight=False)
    )
    processes.from_main_process(
        lambda: check_saved_step(
            session.folder if session else None,
            found,
            is_strict=bench.config.resume_strict,
            report=lambda line: console.print(line, style="yellow", highlight=False),
        ),
        device=bench.machinery.device,
    )
    if found is not None:
        bench.restore(trainer, found)
        console.print(f"continuing at step {trainer.state.step} of {bench.length.total_steps}", highlight=False)
    if session is not None:
        _begin(session, bench, trainer.state.step, console)


@contextmanager
def _session(choice: RunChoice) -> Iterator[RunSession | None]:
    """Opens the run's session on the main process; the others have none."""
    with open_session(choice.config, choice.folder) if is_main_process() else nullcontext() as session:
        yield session


def _start(choice: RunChoice, cache: TokenCache, session: RunSession | None) -> Start:
    assert session is not None
    if not session.is_accepted:
        return resumed_start(choice, cache, session.folder)
    if choice.like is None:
        return new_start(choice.config, cache)
    repeated = RunFolder.open(choice.like)
    session.record(rerun_of=repeated.run_id)
    session.journal.tags({"recipe_exp.rerun_of": repeated.run_id})
    return repeated_start(choice.config, cache, repeated.read_record())


def _folder(session: RunSession | None, device: str) -> Path:
    folder: Path = processes.from_main_process(lambda: session.folder.path if session else None, device=device)
    return folder


def _begin(session: RunSession, bench: Workbench, step: int, console: Console) -> None:
    """Records what the run is executed with; one that is continued is only written to from here on."""
    model = bench.config.model
    commit = find_commit(model.name, model.revision) if model.pretrained else None
    fields = {
        "machinery": bench.machinery.to_dict(),
        "data": describe_data(bench.cache),
        "fingerprints": fingerprint_history(bench.start.fingerprints, bench.fingerprints()),
        **asdict(bench.start.span),
        "resume_command": resume_command(bench.config, session.folder),
        "model_commit": commit,
    }
    if session.is_accepted:
        session.record(**fields, started_from=origin_of(bench.config))
    else:
        changes = session.accept(bench.config, bench.start.differences, **fields)
        session.journal.rewind(step)
        for path in (session.folder.samples_path, session.folder.scores_path):
            rewind_lines(path, step)
        rewind_predictions(session.folder.path / PREDICTIONS_FOLDER, step)
        summary.print_notes(console, bench.start.notes, changes)
    machinery = {key: value for key, value in bench.machinery.to_dict().items() if key != "memory_bytes"}
    session.journal.params({f"machinery.{key}": value for key, value in machinery.items()})
    if commit is not None:
        session.journal.params({"model.commit": commit})
    is_evaluated = bench.config.data.validation_fraction > 0.0
    splits: tuple[Split, ...] = ("train", "validation") if is_evaluated else ("train",)
    record_data(session.journal, session.folder.path, bench.cache, bench.config, *splits)


def _record_end(session: RunSession, config: ExperimentConfig, trainer: Trainer, reason: StopReason) -> None:
    session.stop_reason = reason.name.lower()
    session.record(step=trainer.state.step, stop_reason=session.stop_reason)
    for path in (session.folder.samples_path, session.folder.scores_path):
        if path.exists():
            session.journal.artifact(path)
    is_whole = reason.status == "finished"
    if is_whole and config.tracking.upload_checkpoints == "best" and session.folder.model_path.is_dir():
        max_upload_bytes = round(config.tracking.max_upload_gb * 1e9)
        session.journal.artifact(session.folder.model_path, max_upload_bytes=max_upload_bytes)


def _remove_folders_of_killed_launchers() -> None:
    """What a launcher hands its workers stays when it is killed, and nobody but the next one knows of it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_LAUNCHER_PREFIX}*-*"):
        process_id = folder.name.removeprefix(_LAUNCHER_PREFIX).partition("-")[0]
        if process_id.isdecimal() and not is_process_alive(int(process_id)):
            shutil.rmtree(folder, ignore_errors=True)


def _train_in_processes(choice: RunChoice, num_processes: int, callbacks: Sequence[Callback]) -> TrainResult:
    if callbacks:
        raise ConfigError(
            [
                f"hardware.num_processes={num_processes}: callback objects cannot follow into other processes; name "
                "them in training.callbacks=[module:Class]"
            ]
        )
    _remove_folders_of_killed_launchers()
    with tempfile.TemporaryDirectory(prefix=f"{_LAUNCHER_PREFIX}{os.getpid()}-") as folder:
        config_path, result_path = Path(folder) / "config.yaml", Path(folder) / "result.json"
        choice.config.to_yaml(config_path)
        paths = [config_path, result_path, *([choice.like] if choice.like else [])]
        worker = [sys.executable, "-m", "recipe_exp.tasks.running.worker"]
        code = run_processes([*worker, *map(str, paths)], num_processes)
        if not result_path.exists():
            return TrainResult(None, "failed", code)
        stored = json.loads(result_path.read_text(encoding="utf-8"))
    return TrainResult(**{**stored, "folder": Path(stored["folder"]), "exit_code": code})
