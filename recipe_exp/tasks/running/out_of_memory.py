"""What a run does when the device's memory is full: it goes on in smaller micro-batches, or says what would fit."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from rich.console import Console

from recipe_exp.data.loader import Window
from recipe_exp.errors import TrainingError
from recipe_exp.hardware.memory import OutOfMemoryError, out_of_memory_noticed, release_memory
from recipe_exp.planning.remedies import Setup, changes
from recipe_exp.tasks.running.session import RunSession, resume_command
from recipe_exp.tasks.running.workbench import Workbench
from recipe_exp.training.checkpoint import list_checkpoints
from recipe_exp.training.trainer import Trainer

_NUM_SHOWN_CHANGES = 3


def halve_micro_batches(
    trainer: Trainer, window: Window, bench: Workbench, session: RunSession | None, console: Console
) -> None:
    """Cuts the coming windows into micro-batches of half the size, and records it as the machinery of the run.

    Args:
        trainer: whose present window did not fit.
        window: that window.
        bench: of the run.
        session: the run's record; None on every process but the main one.
        console: shows one line to the user.

    Raises:
        TrainingError: if the window cannot be cut further; it names what needs less memory, and how to go on.
    """
    step = trainer.state.step + 1
    gc.collect()
    release_memory()
    before = bench.machinery.micro_batch_tokens
    if not bench.halve_micro_batches(window):
        raise TrainingError(f"step {step}: {_end(bench, session)}")
    after = bench.machinery.micro_batch_tokens
    console.print(
        f"warning: step {step}: out of memory in micro-batches of {before:,} tokens; going on with the same step and "
        f"hardware.micro_batch_tokens={after}",
        style="yellow",
        highlight=False,
    )
    if session is not None:
        session.record(machinery=bench.machinery.to_dict())
        session.journal.tags({"machinery.micro_batch_tokens": str(after)})


@contextmanager
def out_of_memory_in_one_line(bench: Workbench, session: RunSession | None) -> Iterator[None]:
    """Turns running out of memory outside a step's gradients, as in an evaluation, into one line.

    Raises:
        TrainingError: the memory was full.
    """
    try:
        with out_of_memory_noticed():
            yield
    except OutOfMemoryError as error:
        raise TrainingError(_end(bench, session)) from error


def _end(bench: Workbench, session: RunSession | None) -> str:
    config, machinery = bench.config, bench.machinery
    setup = Setup(config.model, config.training, machinery.precision)
    single = (change.overrides for change in changes(setup, machinery.device) if len(change.overrides) == 1)
    helping = [overrides[0] for overrides in islice(single, _NUM_SHOWN_CHANGES)]
    if config.training.update_in_backward:
        helping.insert(0, f"training.batch_size={max(config.training.batch_size // 2, 1)}")
    advice = f"add {', or '.join(helping)}" if helping else "take a smaller model or shorter data.max_target_tokens"
    line = (
        f"out of memory in micro-batches of {machinery.micro_batch_tokens:,} tokens; {advice}; task=plan says what fits"
    )
    if session is None or not list_checkpoints(bench.checkpoints_folder):
        return line
    return f"{line}. {resume_command(config, session.folder)} goes on from the last checkpoint"
