"""Prompts asked for at a terminal, one after the other, with the model loaded once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress

from rich.console import Console

from recipe_exp.errors import ConfigError
from recipe_exp.evaluation.writer import RecipeWriter
from recipe_exp.signals import ENDING_SIGNALS, Interrupted, handling

_WORDS_THAT_END = ("exit", "quit")


class PromptLoop:
    """Asks for a prompt, writes the recipe, and asks again, until the terminal says `exit` or ends its input.

    Ctrl-C while a recipe is written ends that recipe after its present token, and what there is of it is shown; at the
    prompt it ends the program.

    Args:
        writer: of recipes.
        console: shows them.
        keep: gets every prompt with its whole recipe.
    """

    def __init__(self, writer: RecipeWriter, console: Console, keep: Callable[[str, str], None]) -> None:
        self._writer = writer
        self._console = console
        self._keep = keep
        self._is_writing = False
        self._is_stopped = False

    def run(self) -> None:
        """Asks until there is no prompt any more.

        Raises:
            Interrupted: at a signal that does not end a recipe.
        """
        with suppress(ImportError):  # lets the line be edited
            import readline  # noqa: F401
        self._console.print("A prompt a line; exit or Ctrl-D ends, Ctrl-C stops a recipe.", style="dim")
        with handling(self._take):
            while (prompt := self._ask()) is not None:
                if prompt:
                    self._answer(prompt)

    def _ask(self) -> str | None:
        try:
            prompt = input("> ").strip()
        except EOFError:
            self._console.print()
            return None
        return None if prompt in _WORDS_THAT_END else prompt

    def _answer(self, prompt: str) -> None:
        self._is_writing, self._is_stopped = True, False
        try:
            (recipe,) = self._writer.generate([prompt], should_stop=lambda: self._is_stopped)
        except ConfigError as error:
            self._console.print(f"error: {error}", style="red", markup=False, highlight=False)
            return
        finally:
            self._is_writing = False
        self._console.print(recipe, markup=False, highlight=False)
        if self._is_stopped:
            self._console.print("(stopped)", style="dim")
        else:
            self._keep(prompt, recipe)

    def _take(self, number: int) -> None:
        if number == signal.SIGINT and self._is_writing and not self._is_stopped:
            self._is_stopped = True
            return
        raise Interrupted(ENDING_SIGNALS[signal.Signals(number)])
