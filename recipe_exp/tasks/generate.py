"""`task=generate`: recipes for prompts, from a run's best model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.task import GenerateTask
from recipe_exp.errors import ConfigError, DataError
from recipe_exp.tasks.loading import open_run, prepare_output, run_config, warn_of_unknown_base, write_output, writer_of


def run(config: ExperimentConfig) -> int:
    """Writes one recipe for every prompt and returns the process's exit code."""
    task = config.task
    assert isinstance(task, GenerateTask)
    prompts = _prompts(task)
    if task.output is not None:
        prepare_output(Path(task.output))
    stored = open_run(config.output_dir, task.run)
    warn_of_unknown_base(stored.model)
    config = run_config(stored, config)
    writer = writer_of(stored.model, config, config.hardware.device)
    recipes = writer.generate(prompts)
    if task.output is None:
        _print(prompts, recipes)
        return 0
    lines = [json.dumps({"prompt": p, "recipe": r}, ensure_ascii=False) for p, r in zip(prompts, recipes, strict=True)]
    try:
        write_output(Path(task.output), "\n".join(lines) + "\n")
    except DataError:
        _print(prompts, recipes)
        raise
    print(f"{len(recipes)} recipes in {task.output}")
    return 0


def _print(prompts: Sequence[str], recipes: Sequence[str]) -> None:
    console = Console(soft_wrap=True)
    for position, (prompt, recipe) in enumerate(zip(prompts, recipes, strict=True)):
        if position:
            console.print()
        if len(prompts) > 1:
            console.print(f"> {prompt}", style="dim", markup=False, highlight=False)
        console.print(recipe, markup=False, highlight=False)


def _prompts(task: GenerateTask) -> list[str]:
    if task.prompts and task.prompts_file:
        raise ConfigError(["task.prompts_file: not together with task.prompts; name one of them"])
    if task.prompts:
        return list(task.prompts)
    if task.prompts_file is None:
        raise ConfigError(
            ["task.prompts=[]: nothing to write; set task.prompts=['...'] or task.prompts_file=FILE (- reads stdin)"]
        )
    try:
        text = sys.stdin.read() if task.prompts_file == "-" else Path(task.prompts_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"task.prompts_file={task.prompts_file}: cannot be read ({error})") from None
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise DataError(f"task.prompts_file={task.prompts_file}: no prompt in it; write one a line")
    return prompts
