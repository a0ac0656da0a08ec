"""`task=train`: from a configuration to a run folder with a model in it."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.data.cache import TokenCache
from recipe_exp.errors import CheckpointError, ConfigError, ResumeError
from recipe_exp.evaluation.evaluator import EvaluationResult, Evaluator
from recipe_exp.hardware import accelerator as processes
from recipe_exp.hardware.detect import Machinery, resolve_device, resolve_num_processes
from recipe_exp.hardware.processes import is_main_process, is_worker, run_processes
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.tasks import summary
from recipe_exp.tasks.building import describe_data, open_data, resolve_machinery
from recipe_exp.tasks.run_choice import RunChoice, choose_run
from recipe_exp.tasks.session import RunSession, open_session, resume_command
from recipe_exp.tasks.workbench import Workbench
from recipe_exp.tracking import list_runs, mark_interrupted
from recipe_exp.training import checkpoint
from recipe_exp.training.callbacks import import_callbacks
from recipe_exp.training.callbacks.callback import Callback
from recipe_exp.training.callbacks.checkpoint import Best, CheckpointCallback
from recipe_exp.training.callbacks.console import ConsoleCallback
from recipe_exp.training.callbacks.evaluation import (
    BestMetric,
    EarlyStoppingCallback,
    EvaluationCallback,
    TimeLimitCallback,
)
from recipe_exp.training.callbacks.journal import JournalCallback
from recipe_exp.training.callbacks.metrics import MetricsCallback
from recipe_exp.training.lifecycle import Lifecycle, StopReason
from recipe_exp.training.trainer import Trainer


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


def train(config: ExperimentConfig, callbacks: Sequence[Callback] = ()) -> TrainResult:
    """Trains as configured.

    Args:
        config: the whole configuration.
        callbacks: beside those of `training.callbacks`.

    Raises:
        RecipeExpError: for every mistake that a user can mend.
    """
    config = _with_absolute_path(config)
    # A run that is continued by its id brings its number of processes along.
    chosen = None if is_worker() else _choose(config)
    hardware = chosen.config.hardware if chosen else config.hardware
    device = resolve_device(hardware.device)
    num_processes = resolve_num_processes(hardware, device)
    if num_processes > 1 and not is_worker():
        return _train_in_processes(config, num_processes, callbacks)
    choice: RunChoice = chosen or processes.from_main_process(lambda: _choose(config), device=device)
    console = Console(quiet=not is_main_process(), soft_wrap=True, markup=False)
    if choice.is_finished and choice.folder is not None:
        console.print(f"{choice.folder.name} is finished already; nothing to do", highlight=False)
        return TrainResult(choice.folder, "finished", 0)
    if config.resume == "latest" and choice.folder is None:
        console.print("note: no unfinished run of this configuration; starting a new one", style="yellow")
    try:
        with _session(choice) as session:
            result = _train(choice, session, console, device, callbacks)
            if session is not None:
                summary.print_results(console, session, result.metrics)
    finally:
        processes.leave_processes()
    if session is not None:
        summary.print_end(console, choice.config, session)
    return result


def _with_absolute_path(config: ExperimentConfig) -> ExperimentConfig:
    """A run may be continued from another folder than it was started in."""
    if config.data.path is None:
        return config
    path = str(Path(config.data.path).expanduser().absolute())
    return config.model_copy(update={"data": config.data.model_copy(update={"path": path})})


def _choose(config: ExperimentConfig) -> RunChoice:
    """Chooses the run, after every run that was killed has been marked as what it is."""
    for folder in list_runs(Path(config.output_dir)):
        with suppress(OSError):  # somebody else's run
            mark_interrupted(folder)
    return choose_run(config)


def _train(
    choice: RunChoice, session: RunSession | None, console: Console, device: str, callbacks: Sequence[Callback]
) -> TrainResult:
    """Builds everything from the bottom up, trains, and closes the books."""
    config = choice.config
    summary.print_begin(console, config, session)
    cache = open_data(config, console)
    machinery = processes.from_main_process(lambda: _machinery(config, cache, session), device=device)
    bench = Workbench.build(config, cache, machinery, _folder(session, device))
    checkpoints = _checkpoint_callback(bench, session, console)
    trainer = _build_trainer(bench, session, console, [*callbacks, checkpoints])
    if session is not None:
        _warn_of_long_warmup(console, config, bench.length.total_steps)
        summary.print_data(console, bench.cache, bench.length.total_steps, bench.machinery)
    reason = trainer.fit()
    if session is not None:
        session.status = reason.status
        _record_end(session, config, trainer, reason)
    return TrainResult(
        folder=session.folder.path if session else None,
        status=reason.status,
        exit_code=reason.exit_code,
        metrics=trainer.metrics,
        best=_describe_best(config.evaluation.best_metric, checkpoints.best),
    )


def _warn_of_long_warmup(console: Console, config: ExperimentConfig, total_steps: int) -> None:
    if config.training.warmup_steps >= total_steps:
        console.print(
            f"warning: training.warmup_steps={config.training.warmup_steps}: the run has {total_steps} steps, so the "
            "learning rate never reaches its peak; lower it",
            style="yellow",
        )


def _build_trainer(
    bench: Workbench, session: RunSession | None, console: Console, extra_callbacks: Sequence[Callback]
) -> Trainer:
    """Hangs everything that happens beside the arithmetic on the loop."""
    training, evaluation = bench.config.training, bench.config.evaluation
    callbacks: list[Callback] = [
        MetricsCallback(
            training.log_every_n_steps,
            training.on_non_finite,
            lambda values: processes.sum_over_processes(bench.accelerator, values),
        ),
        *import_callbacks(training.callbacks),
        *extra_callbacks,
    ]
    if bench.config.data.validation_fraction > 0.0:
        callbacks.append(_evaluation_callback(bench, _SamplesFile(session, console)))
    if training.early_stopping_patience is not None:
        metric = BestMetric(evaluation.best_metric, evaluation.best_mode)
        callbacks.append(
            EarlyStoppingCallback(metric, training.early_stopping_patience, training.early_stopping_threshold)
        )
    if training.stop_after_hours is not None:
        callbacks.append(TimeLimitCallback(training.stop_after_hours, time.monotonic))
    if session is not None:
        callbacks += [JournalCallback(session.journal), ConsoleCallback(console)]
    return Trainer(
        bench.step,
        bench.windows,
        bench.length,
        callbacks,
        Lifecycle(lambda reason: processes.largest_over_processes(bench.accelerator, reason)),
        restore=lambda trainer: _restore(trainer, bench, session, console),
    )


def _checkpoint_callback(bench: Workbench, session: RunSession | None, console: Console) -> CheckpointCallback:
    training, evaluation = bench.config.training, bench.config.evaluation

    def record_best(best: Best) -> None:
        if session is not None:
            session.record(best=_describe_best(evaluation.best_metric, best))

    return CheckpointCallback(
        bench.run_folder / "checkpoints",
        bench.run_folder / "model",
        every_n_steps=training.checkpoint_every_n_steps,
        keep_best=training.keep_best_n_checkpoints,
        metric=BestMetric(evaluation.best_metric, evaluation.best_mode),
        write=bench.write_checkpoint,
        on_best=record_best,
        report=lambda line: console.print(line, style="yellow"),
    )


def _evaluation_callback(bench: Workbench, samples: _SamplesFile) -> EvaluationCallback:
    evaluator = bench.evaluator()

    def evaluate(step: int) -> Mapping[str, float]:
        result = evaluator.evaluate(bench.loss)
        samples.write(step, evaluator, bench.loss, result)
        return result.metrics

    return EvaluationCallback(
        evaluate,
        bench.config.evaluation.every_n_steps,
        write_samples=lambda step: samples.write(step, evaluator, bench.loss, None),
        samples_every_n_steps=bench.config.evaluation.samples_every_n_steps,
    )


class _SamplesFile:
    """Appends generated samples to samples.jsonl of the run."""

    def __init__(self, session: RunSession | None, console: Console) -> None:
        self.console = console
        self.path = session.folder.samples_path if session else None

    def write(self, step: int, evaluator: Evaluator, loss: SequenceLoss, result: EvaluationResult | None) -> None:
        """Generates on every process and writes on the main one."""
        samples = evaluator.samples(loss, result)
        if self.path is None:
            return
        line = json.dumps({"step": step, "samples": [asdict(sample) for sample in samples]}, ensure_ascii=False)
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            self.console.print(f"warning: {self.path.name}: {error.strerror}; training goes on", style="yellow")


def _restore(trainer: Trainer, bench: Workbench, session: RunSession | None, console: Console) -> None:
    """Continues from the newest checkpoint that is whole; a damaged one is named and passed over."""
    folder = bench.run_folder / "checkpoints"
    found: tuple[Path | None, list[str]] = processes.from_main_process(
        lambda: checkpoint.newest_sound(folder), device=bench.machinery.device
    )
    path, complaints = found
    for line in complaints:
        console.print(f"warning: {line}; falling back to the checkpoint before", style="yellow")
    if complaints and path is None:
        raise CheckpointError(f"{folder}: no checkpoint is whole; start a run of its own without resume=...")
    if session is not None:
        for leftover in checkpoint.remove_leftovers(folder):
            console.print(f"removed {leftover.name}, left by an interrupted save")
    if path is not None:
        bench.restore(trainer, path)
        console.print(f"continuing at step {trainer.state.step} of {bench.length.total_steps}", highlight=False)
    if session is not None and not session.is_accepted:
        session.accept(bench.config)
        session.journal.rewind(trainer.state.step)
        _rewind_samples(session.folder.samples_path, trainer.state.step)
    if session is not None:
        _record_begin(session, bench)


def _rewind_samples(path: Path, step: int) -> None:
    """Keeps the samples up to a step; what was written after it will be written again."""
    if path.exists():
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of_samples(line) <= step]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _step_of_samples(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # half a line that a kill left


@contextmanager
def _session(choice: RunChoice) -> Iterator[RunSession | None]:
    """Opens the run's session on the main process; the others have none."""
    with open_session(choice.config, choice.folder) if is_main_process() else nullcontext() as session:
        yield session


def _machinery(config: ExperimentConfig, cache: TokenCache, session: RunSession | None) -> Machinery:
    """A run that is continued reads what `auto` stood for; a key that is given wins, and a run of its own asks."""
    assert session is not None
    stored = session.folder.read_record().get("machinery")
    if stored is None:
        return resolve_machinery(config, cache)
    then = Machinery(**stored)
    now = resolve_machinery(config, cache, auto_tokens=then.micro_batch_tokens)
    if (then.device, then.num_processes) != (now.device, now.num_processes):
        raise ResumeError(
            f"resume: the run used {then.num_processes} process(es) on {then.device}, this command "
            f"{now.num_processes} on {now.device}; set hardware.num_processes and hardware.device as then"
        )
    hardware, model = config.hardware, config.model
    return replace(
        then,
        num_threads=then.num_threads if hardware.num_threads == "auto" else now.num_threads,
        attention=then.attention if model.attention == "auto" else now.attention,
        micro_batch_tokens=now.micro_batch_tokens,
    )


def _folder(session: RunSession | None, device: str) -> Path:
    folder: Path = processes.from_main_process(lambda: session.folder.path if session else None, device=device)
    return folder


def _record_begin(session: RunSession, bench: Workbench) -> None:
    data = describe_data(bench.cache)
    session.record(
        machinery=bench.machinery.to_dict(),
        data=data,
        total_steps=bench.length.total_steps,
        resume_command=resume_command(bench.config, session.folder),
    )
    machinery = {key: value for key, value in bench.machinery.to_dict().items() if key != "memory_bytes"}
    session.journal.params({f"machinery.{key}": value for key, value in machinery.items()})
    counts = {f"num_{split}": count for split, count in bench.cache.report.num_examples.items()}
    source = bench.config.data.path or "generated"
    session.journal.dataset("recipes", bench.cache.data_fingerprint[:32], counts, "training", source)


def _describe_best(metric: str, best: Best | None) -> dict[str, Any] | None:
    return {"metric": metric, **asdict(best)} if best is not None else None


def _record_end(session: RunSession, config: ExperimentConfig, trainer: Trainer, reason: StopReason) -> None:
    session.record(step=trainer.state.step, stop_reason=reason.name.lower())
    if session.folder.samples_path.exists():
        session.journal.artifact(session.folder.samples_path)
    is_whole = reason in (StopReason.FINISHED, StopReason.EARLY_STOPPING)
    if is_whole and config.tracking.upload_checkpoints == "best" and session.folder.model_path.is_dir():
        session.journal.artifact(session.folder.model_path)


def _train_in_processes(config: ExperimentConfig, num_processes: int, callbacks: Sequence[Callback]) -> TrainResult:
    if callbacks:
        raise ConfigError(
            [
                f"hardware.num_processes={num_processes}: callback objects cannot follow into other processes; name "
                "them in training.callbacks=[module:Class]"
            ]
        )
    with tempfile.TemporaryDirectory(prefix="recipe_exp-") as folder:
        config_path, result_path = Path(folder) / "config.yaml", Path(folder) / "result.json"
        config.to_yaml(config_path)
        command = [sys.executable, "-m", "recipe_exp.tasks.worker", str(config_path), str(result_path)]
        code = run_processes(command, num_processes)
        if not result_path.exists():
            return TrainResult(None, "failed", code)
        stored = json.loads(result_path.read_text(encoding="utf-8"))
    return TrainResult(**{**stored, "folder": Path(stored["folder"]), "exit_code": code})
