"""Recipes for prompts: from files, at a terminal, and from any folder that holds a model."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from recipe_exp.__main__ import main
from recipe_exp.config.model import ModelShape
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.data.tokens.vocabulary import train_unigram
from recipe_exp.models import load


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a plain T5, which nobody trained."""
    folder = tmp_path_factory.mktemp("model") / "plain"
    torch.manual_seed(0)
    shape = ModelShape(vocab_size=400, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_decoder_layers=1, num_heads=2)
    load.export_model(load.from_shape(shape, dtype=torch.float32), folder)
    RecipeTokenizer.from_tokenizer(train_unigram(["toast the bread and butter it"], 400)).save(folder)
    return folder


class Terminal:
    """A process at a terminal, which somebody types into."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self._end, its_end = pty.openpty()
        fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "recipe_exp", *arguments],
            cwd=folder,
            env={**os.environ, "TERM": "dumb"},
            stdin=its_end,
            stdout=its_end,
            stderr=its_end,
            preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
        )
        os.close(its_end)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def wait_for(self, text: str, seconds: float = 90) -> str:
        """Returns what was shown since the last wait, up to and with the text."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} was not shown: {self.shown!r}"
            if select.select([self._end], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self._end, 4096).decode(errors="replace").replace("\r\n", "\n")
                except OSError:
                    raise AssertionError(f"it ended without {text!r}: {self.shown!r}") from None
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def end(self, seconds: float = 30) -> int:
        """Returns the exit code, once the process has ended."""
        with contextlib.suppress(OSError):
            while select.select([self._end], [], [], seconds)[0] and (piece := os.read(self._end, 4096)):
                self.shown += piece.decode(errors="replace").replace("\r\n", "\n")
        return self.process.wait(seconds)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)


@pytest.fixture
def terminal(model: Path, tmp_path: Path) -> Iterator[Terminal]:
    output = tmp_path / "answers.jsonl"
    one = Terminal(
        [
            *("task=generate", f"task.run={model}", f"task.output={output}", "hardware=cpu"),
            *("evaluation.max_new_tokens=60000", "hardware.num_threads=1", f"output_dir={tmp_path / 'outputs'}"),
        ],
        tmp_path,
    )
    yield one
    one.close()


@pytest.mark.parametrize("ending", ["exit\n", "\x04"], ids=["exit", "ctrl-d"])
def test_a_terminal_is_asked_until_it_has_enough(terminal: Terminal, tmp_path: Path, ending: str) -> None:
    terminal.wait_for("A prompt a line; exit or Ctrl-D ends, Ctrl-C stops a recipe.")
    terminal.wait_for("> ")
    terminal.type("\n")
    terminal.wait_for("> ")
    # A recipe without an end in sight: Ctrl-C ends it after its present token, and the next one can be asked for.
    for prompt in ("toast the bread", "butter it"):
        terminal.type(f"{prompt}\n")
        terminal.wait_for(prompt)
        time.sleep(0.7)
        terminal.type("\x03")
        terminal.wait_for("(stopped)")
        terminal.wait_for("> ")
    terminal.type("title=Toast\n")
    terminal.wait_for("error: prompt 'title=Toast': gives no ingredients")
    terminal.wait_for("> ")
    terminal.type(ending)
    assert terminal.end() == 0
    assert "Traceback" not in terminal.shown
    # Half a recipe is shown, and not kept.
    assert f"0 recipes in {tmp_path / 'answers.jsonl'}" in terminal.shown


def test_at_the_prompt_ctrl_c_ends_the_program(terminal: Terminal) -> None:
    terminal.wait_for("> ")
    # Python loses a signal that falls between the prompt it shows and its wait for a key; no hand is as quick.
    time.sleep(0.5)
    terminal.type("\x03")
    assert terminal.end() == 130
    assert "interrupted" in terminal.shown
    assert "Traceback" not in terminal.shown


def test_another_signal_ends_it_while_it_writes(terminal: Terminal) -> None:
    terminal.wait_for("> ")
    terminal.type("toast\n")
    terminal.wait_for("toast")
    time.sleep(0.5)
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.end() == 143
    assert "Traceback" not in terminal.shown


def test_whole_recipes_are_kept(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    terminal = Terminal(
        [
            *("task=generate", f"task.run={model}", f"task.output={output}", "hardware=cpu"),
            *("evaluation.max_new_tokens=4", f"output_dir={tmp_path / 'outputs'}"),
        ],
        tmp_path,
    )
    try:
        terminal.wait_for("> ")
        for number in (1, 2):
            terminal.type(f"toast {number}\n")
            terminal.wait_for("> ")
            answers = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
            assert [answer["prompt"] for answer in answers] == [f"toast {n}" for n in range(1, number + 1)]
        terminal.type("quit\n")
        assert terminal.end() == 0
    finally:
        terminal.close()


def test_without_a_terminal_prompts_have_to_be_named(
    model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert main(["task=generate", f"task.run={model}"]) == 2
    assert "task.prompts=[]: nothing to write" in capfd.readouterr().err


def test_a_folder_of_a_plain_model_writes_text_or_jsonl(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prompts = "task.prompts=['title=Toast; ingredients=bread, butter', Soup]"
    command = ["task=generate", f"task.run={model}", prompts, "hardware=cpu", "evaluation.max_new_tokens=5"]
    assert main([*command, f"output_dir={tmp_path}"]) == 0
    assert "> Soup" in capfd.readouterr().out
    output = tmp_path / "answers.jsonl"
    assert main([*command, f"output_dir={tmp_path}", f"task.output={output}"]) == 0
    answers = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [set(answer) for answer in answers] == [{"prompt", "recipe"}] * 2
    assert answers[1]["prompt"] == "Soup"
