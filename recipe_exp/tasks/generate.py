"""`task=generate`: recipes for prompts, from a run's best model or any folder of one."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.messages import show_setting
from recipe_exp.config.task import GenerateTask
from recipe_exp.errors import DataError
from recipe_exp.evaluation.writer import RecipeWriter
from recipe_exp.files import size_text
from recipe_exp.tasks.prompt_loop import PromptLoop
from recipe_exp.tasks.trained.loading import (
    config_beside,
    open_model,
    prepare_output,
    warn_of_unknown_base,
    write_output,
    writer_of,
)

MAX_PROMPTS_BYTES = 16 * 2**20


def run(config: ExperimentConfig) -> int:
    """Writes one recipe for every prompt and returns the process's exit code."""
    task = config.task
    assert isinstance(task, GenerateTask)
    prompts = _prompts(task)
    if task.output is not None:
        prepare_output(Path(task.output))
    model, own = open_model(config.output_dir, task.run)
    warn_of_unknown_base(model)
    config = config_beside(own, config)
    writer = writer_of(model, config, config.hardware.device)
    if not prompts:
        _answer_at_terminal(writer, task.output)
        return 0
    recipes = writer.generate(prompts)
    if task.output is None:
        _print(prompts, recipes)
        return 0
    try:
        _write(Path(task.output), prompts, recipes)
    except DataError:
        _print(prompts, recipes)
        raise
    print(f"{len(recipes)} recipes in {task.output}")
    return 0


def _answer_at_terminal(writer: RecipeWriter, output: str | None) -> None:
    prompts: list[str] = []
    recipes: list[str] = []

    def keep(prompt: str, recipe: str) -> None:
        prompts.append(prompt)
        recipes.append(recipe)
        if output is not None:
            _write(Path(output), prompts, recipes)

    PromptLoop(writer, Console(soft_wrap=True), keep).run()
    if output is not None:
        print(f"{len(recipes)} recipes in {output}")


def _write(path: Path, prompts: Sequence[str], recipes: Sequence[str]) -> None:
    lines = [json.dumps({"prompt": p, "recipe": r}, ensure_ascii=False) for p, r in zip(prompts, recipes, strict=True)]
    write_output(path, "\n".join(lines) + "\n")


def _print(prompts: Sequence[str], recipes: Sequence[str]) -> None:
    console = Console(soft_wrap=True)
    for position, (prompt, recipe) in enumerate(zip(prompts, recipes, strict=True)):
        if position:
            console.print()
        if len(prompts) > 1:
            console.print(f"> {prompt}", style="dim", markup=False, highlight=False)
        console.print(recipe, markup=False, highlight=False)


def _prompts(task: GenerateTask) -> list[str]:
    if task.prompts or task.prompts_file is None:
        return list(task.prompts)
    shown = show_setting("task.prompts_file", task.prompts_file)
    try:
        # A pipe may be named, so it is read as it comes, and at most so much of it.
        is_input = task.prompts_file == "-"
        with nullcontext(sys.stdin.buffer) if is_input else Path(task.prompts_file).open("rb") as stream:
            content = stream.read(MAX_PROMPTS_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise DataError(f"{shown}: cannot be read ({reason})") from None
    if len(content) > MAX_PROMPTS_BYTES:
        raise DataError(f"{shown}: is larger than {size_text(MAX_PROMPTS_BYTES)}; write fewer prompts")
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise DataError(f"{shown}: no prompt in it; write one a line")
    return prompts
