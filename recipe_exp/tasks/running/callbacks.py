"""What hangs on the loop of a training run: everything that happens beside the arithmetic."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from recipe_exp.config.messages import show_value
from recipe_exp.data.loader import MicroBatch, Window, make_micro_batch
from recipe_exp.errors import TrainingError
from recipe_exp.evaluation.cost import describe_cost
from recipe_exp.evaluation.evaluator import Evaluator
from recipe_exp.evaluation.untuned import read_untuned, untuned_path, write_untuned
from recipe_exp.hardware import accelerator as processes
from recipe_exp.hardware.matrix_peak import matrix_peak
from recipe_exp.planning.flops import known_peak, training_flops
from recipe_exp.tasks.evaluation_report import PREDICTIONS_FOLDER
from recipe_exp.tasks.places import cache_dir_of
from recipe_exp.tasks.running.out_of_memory import halve_micro_batches
from recipe_exp.tasks.running.predictions import PredictionFiles
from recipe_exp.tasks.running.samples import SamplesFile, last_sample
from recipe_exp.tasks.running.session import RunSession, resume_command
from recipe_exp.tasks.running.workbench import Workbench
from recipe_exp.tracking import pruning_question
from recipe_exp.training import checkpoint
from recipe_exp.training.callbacks import import_callbacks
from recipe_exp.training.callbacks.callback import Callback
from recipe_exp.training.callbacks.checkpoint import Best, CheckpointCallback
from recipe_exp.training.callbacks.compiling import CompileSavingCallback, compare_kernels
from recipe_exp.training.callbacks.console import ConsoleCallback
from recipe_exp.training.callbacks.evaluation import (
    BestMetric,
    EarlyStoppingCallback,
    EvaluationCallback,
    EvaluationCostCallback,
    TimeLimitCallback,
    UntunedCallback,
)
from recipe_exp.training.callbacks.journal import JournalCallback
from recipe_exp.training.callbacks.metrics import Arithmetic, MetricsCallback
from recipe_exp.training.callbacks.notify import NotifyCallback
from recipe_exp.training.callbacks.prune import PruneCallback
from recipe_exp.training.callbacks.watchdog import WatchdogCallback
from recipe_exp.training.guard import Guard, RollbackError
from recipe_exp.training.lifecycle import Lifecycle
from recipe_exp.training.trainer import Trainer

STACKS_FILE = "stall.txt"
PROFILE_FOLDER = "profile"

_NUM_NAMED_EXAMPLES = 3
_SHOWN_CHARACTERS = 40


def build_trainer(
    bench: Workbench,
    session: RunSession | None,
    console: Console,
    extra_callbacks: Sequence[Callback],
    restore: Callable[[Trainer], None],
) -> Trainer:
    """Returns the loop with everything that the configuration hangs on it.

    Args:
        bench: what takes part in a step.
        session: the run's record; None on every process but the main one.
        console: shows lines to the user.
        extra_callbacks: beside those of the configuration.
        restore: puts back a saved position before the first step.
    """
    lifecycle = Lifecycle(_agreement(bench))
    samples = SamplesFile(session.folder if session else None, console)
    kept = PredictionFiles(
        session.folder.path / PREDICTIONS_FOLDER if session else None, lambda: _best_step(session), console
    )
    watchdog = _watchdog(bench, session, console)
    callbacks: list[Callback] = [
        MetricsCallback(
            bench.config.training.log_every_n_steps,
            _guard(bench, console),
            lambda values: processes.sum_over_processes(bench.accelerator, values),
            _arithmetic(bench) if session is not None else None,
            lambda: bench.loss.kernels.compile_seconds,
        ),
        *import_callbacks(bench.config.training.callbacks),
        *extra_callbacks,
        *([watchdog] if watchdog else []),
        *_evaluation_callbacks(bench, _Written(samples, kept), lifecycle, watchdog, console),
        *_limits(bench),
        *(_of_main_process(bench, session, console) if session is not None else []),
    ]

    def roll_back(trainer: Trainer, fault: RollbackError) -> None:
        _roll_back(trainer, bench, console, fault)

    def make_room(trainer: Trainer, window: Window) -> None:
        halve_micro_batches(trainer, window, bench, session, console)

    return Trainer(bench.step, bench.windows, bench.length, callbacks, lifecycle, restore, roll_back, make_room)


def checkpoint_callback(bench: Workbench, session: RunSession | None, console: Console) -> CheckpointCallback:
    """Returns the callback that saves the run."""
    training, evaluation = bench.config.training, bench.config.evaluation

    def record_best(best: Best) -> None:
        if session is not None:
            session.record(best=describe_best(evaluation.best_metric, best))

    def write(trainer: Trainer) -> Path | None:
        written = bench.write_checkpoint(trainer, session.journal.sync if session is not None else None)
        if session is not None:
            with suppress(OSError):  # the checkpoint is there all the same
                session.record(saved_step=trainer.state.step)
        return written

    return CheckpointCallback(
        bench.checkpoints_folder,
        bench.run_folder / "model",
        every_n_steps=training.checkpoint_every_n_steps,
        keep_best=training.keep_best_n_checkpoints,
        metric=BestMetric(evaluation.best_metric, evaluation.best_mode),
        write=write,
        on_best=record_best,
        report=lambda line: console.print(line, style="yellow"),
        resume_command=resume_command(bench.config, session.folder) if session is not None else "",
    )


def notify_callbacks(
    bench: Workbench, session: RunSession | None, checkpoints: CheckpointCallback
) -> list[NotifyCallback]:
    """Returns the callback that tells people how the run goes, where somebody wants to be told."""
    if session is None or session.notifier is None:
        return []
    folder = session.folder
    callback = NotifyCallback(
        session.notifier.send,
        run_name=folder.read_record()["run_name"],
        where=f"{bench.machinery.device_name}, {socket.gethostname()}\n{folder.path}",
        every_minutes=bench.config.tracking.notify_every_minutes,
        metric=bench.config.evaluation.best_metric,
        best=lambda: checkpoints.best,
        sample=lambda: last_sample(folder.samples_path),
    )
    session.progress = lambda: callback.progress
    return [callback]


def describe_best(metric: str, best: Best | None) -> dict[str, Any] | None:
    """Returns the best evaluated step as plain data."""
    return {"metric": metric, **asdict(best)} if best is not None else None


def _agreement(bench: Workbench) -> Callable[[int], int] | None:
    if bench.accelerator.num_processes == 1:
        return None
    return lambda value: processes.largest_over_processes(bench.accelerator, value)


def _arithmetic(bench: Workbench) -> Arithmetic:
    model, training, machinery = bench.config.model, bench.config.training, bench.machinery
    peak = known_peak(bench.config.hardware.peak_tflops, machinery.precision)
    if peak is None:
        peak = matrix_peak(cache_dir_of(bench.config), machinery.device, machinery.precision)

    def flops_of(source_tokens: float, target_tokens: float) -> float:
        # What checkpointing computes again is no work that a recipe needs.
        return training_flops(
            model.shape,
            training.adapter,
            source_tokens=source_tokens,
            target_tokens=target_tokens,
            gradient_checkpointing=False,
        )

    return Arithmetic(flops_of, peak * machinery.num_processes)


def _guard(bench: Workbench, console: Console) -> Guard:
    def last_checkpoint() -> str | None:
        found = checkpoint.list_checkpoints(bench.checkpoints_folder)
        return found[-1].name if found else None

    return Guard(
        bench.config.training.on_non_finite,
        bench.config.training.max_loss_increase,
        describe_window=lambda step: _describe_window(bench, step),
        last_checkpoint=last_checkpoint,
        report=lambda line: console.print(line, style="yellow"),
    )


def _describe_window(bench: Workbench, step: int) -> str:
    """Names the first recipes that a step, counted from 1, learnt from."""
    indices = bench.plan.window(step - 1)
    examples = bench.cache.examples("train")
    named = [
        f"{index} ({show_value(examples[int(index)].source_text[:_SHOWN_CHARACTERS])})"
        for index in indices[:_NUM_NAMED_EXAMPLES]
    ]
    rest = f" and {len(indices) - len(named)} more" if len(indices) > len(named) else ""
    return f"training recipes {', '.join(named)}{rest}"


def _roll_back(trainer: Trainer, bench: Workbench, console: Console, fault: RollbackError) -> None:
    step = trainer.state.step
    found = bench.find_checkpoint(is_strict=False, report=lambda line: console.print(line, style="yellow"))
    if found is None:
        raise TrainingError(f"{fault}, so there is nothing to go back to; lower training.learning_rate")
    bench.restore(trainer, found)
    console.print(
        f"warning: {fault}; going back to it and on after step {step}, without what lies between", style="yellow"
    )


def _watchdog(bench: Workbench, session: RunSession | None, console: Console) -> WatchdogCallback | None:
    minutes = bench.config.hardware.stall_timeout_minutes
    if minutes is None:
        return None

    def record(line: str) -> None:
        console.print(f"error: {line}", style="bold red")
        if session is not None:
            session.record(status="interrupted", stop_reason="stalled", error=line)
            session.status, session.stop_reason = "interrupted", "stalled"
            session.announce_end(bench.config)

    rank = bench.accelerator.process_index
    name = STACKS_FILE if rank == 0 else f"{rank}.{STACKS_FILE}"
    return WatchdogCallback(60.0 * minutes, bench.run_folder / name, record)


def _of_main_process(bench: Workbench, session: RunSession, console: Console) -> list[Callback]:
    callbacks: list[Callback] = [JournalCallback(session.journal), *_pruning(), ConsoleCallback(console)]

    def report(line: str) -> None:
        console.print(line, highlight=False)

    # Within the backward pass weights are updated, and there is no room for all of their gradients.
    if bench.loss.kernels.is_compiled and not bench.config.training.update_in_backward:
        callbacks.append(
            CompileSavingCallback(
                lambda: compare_kernels(bench.loss, _half_of_a_micro_batch(bench), bench.accelerator),
                lambda: bench.loss.kernels.compile_seconds,
                report,
            )
        )
    if bench.config.hardware.profile_steps is not None:
        # PyTorch's profiler is loaded where it is used.
        from recipe_exp.training.callbacks.profile import ProfileCallback

        callbacks.append(
            ProfileCallback(session.folder.path / PROFILE_FOLDER, bench.config.hardware.profile_steps, report)
        )
    return callbacks


def _half_of_a_micro_batch(bench: Workbench) -> MicroBatch:
    """Returns every second example of the run's first micro-batch: uncompiled, more is kept for the backward pass."""
    with bench.windows(0) as windows:
        indices = next(windows).micro_batches[0].indices
    return make_micro_batch(bench.cache.split("train"), indices[::2], noise=(bench.config.seed, 0))


def _pruning() -> list[PruneCallback]:
    """The main process asks; the others learn of the end where all of them agree on it."""
    question = pruning_question()
    return [PruneCallback(question)] if question is not None else []


def _limits(bench: Workbench) -> list[Callback]:
    training, evaluation = bench.config.training, bench.config.evaluation
    limits: list[Callback] = []
    if training.early_stopping_patience is not None:
        metric = BestMetric(evaluation.best_metric, evaluation.best_mode)
        patience, threshold = training.early_stopping_patience, training.early_stopping_threshold
        limits.append(EarlyStoppingCallback(metric, patience, threshold))
    if training.stop_after_hours is not None:
        limits.append(TimeLimitCallback(training.stop_after_hours, time.monotonic))
    return limits


@dataclass(frozen=True)
class _Written:
    """Where an evaluation leaves what was generated."""

    samples: SamplesFile
    predictions: PredictionFiles


def _best_step(session: RunSession | None) -> int | None:
    best = session.folder.read_record().get("best") if session is not None else None
    return best["step"] if best else None


def _untuned_callback(bench: Workbench, evaluator: Evaluator) -> UntunedCallback:
    path = untuned_path(evaluator.scorer.folder, bench.config.model, evaluator.decoding, evaluator.asked())

    def write() -> None:
        write_untuned(path, lambda: evaluator.predict(bench.loss.network), is_main=bench.accelerator.is_main_process)

    is_known = processes.from_main_process(lambda: read_untuned(path) is not None, device=bench.machinery.device)
    return UntunedCallback(write, is_known=is_known)


def _evaluation_callbacks(
    bench: Workbench,
    written: _Written,
    lifecycle: Lifecycle,
    watchdog: WatchdogCallback | None,
    console: Console,
) -> list[Callback]:
    """Several processes look at signals only where all of them pass; a single one is interrupted anywhere."""
    if bench.config.data.validation_fraction == 0.0:
        return []

    def between_parts() -> None:
        if watchdog is not None:
            watchdog.beat()
        lifecycle.raise_if_asked()

    evaluator = bench.evaluator(between_batches=watchdog.beat if watchdog else None, between_parts=between_parts)

    def evaluate(step: int) -> Mapping[str, float]:
        result = evaluator.evaluate(bench.loss)
        written.samples.write(step, evaluator, bench.loss, result)
        written.predictions.write(step, result.predictions)
        return result.metrics

    callback = EvaluationCallback(
        evaluate,
        bench.config.evaluation.every_n_steps,
        write_samples=lambda step: written.samples.write(step, evaluator, bench.loss, None),
        samples_every_n_steps=bench.config.evaluation.samples_every_n_steps,
    )
    callbacks: list[Callback] = [callback]
    if bench.config.evaluation.untuned_base:
        callbacks.append(_untuned_callback(bench, evaluator))
    every_n_steps = bench.config.evaluation.every_n_steps
    if every_n_steps is None:
        return callbacks

    def describe(step_seconds: float) -> str:
        assert evaluator.cost is not None
        return describe_cost(evaluator.cost, step_seconds=step_seconds, every_n_steps=every_n_steps)

    return [*callbacks, EvaluationCostCallback(describe, lambda line: console.print(line, highlight=False))]
