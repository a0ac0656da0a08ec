"""Starts of one command that are killed at chosen moments.

`ForkServer` starts the command, `plan_kills` draws the moments, `repeat_until_done` repeats it as a person or a queue
would.
"""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from disk_faults import Disk
from fault_child import Trigger

CHILD = Path(__file__).with_name("fault_child.py")
RUN = (
    "data=jsonl",
    "data.validation_fraction=0.1",
    "data.test_fraction=0.05",
    "data.max_source_tokens=32",
    "data.max_target_tokens=64",
    "data.cache_dir=cache",
    "model.dropout=0.1",
    "model.shape.d_model=32",
    "model.shape.d_ff=48",
    "model.shape.d_kv=8",
    "model.shape.vocab_size=700",
    "training.batch_size=8",
    "training.max_steps=30",
    "training.warmup_steps=3",
    "training.log_every_n_steps=4",
    "training.checkpoint_every_n_steps=3",
    "training.keep_best_n_checkpoints=2",
    "evaluation.every_n_steps=5",
    "evaluation.samples_every_n_steps=7",
    "evaluation.max_examples=12",
    "evaluation.max_generated_examples=3",
    "evaluation.max_new_tokens=12",
    "hardware=cpu",
    "hardware.memory_gb=4",
    "hardware.num_threads=1",
    "hardware.num_workers=1",
    "hardware.micro_batch_tokens=512",
    "resume=latest",
)
"""A run of two seconds: data is prepared, 30 steps, 6 evaluations, 14 checkpoints."""

LIMIT_SECONDS = 200.0

_SAVED = r"/checkpoints/step-\d+\.partial"
_REMOVED = r"/checkpoints/step-\d+\.removed\.partial"
PHASES = {
    "run folder made": r"os\.mkdir .*/runs/[^/]+$",
    "run.json opened": r"opened .*/\.run\.json\.\d+\.tmp$",
    "run.json renamed": r"os\.rename .*/\.run\.json\.\d+\.tmp$",
    "run.json in place": r"fsync .*/runs/[^/]+$",
    "config.yaml opened": r"opened .*config\.yaml",
    "config.yaml renamed": r"os\.rename .*config\.yaml",
    "lock taken": r"opened .*/run\.lock$",
    "journal written": r"write .*/journal\.jsonl$",
    "journal line torn": r"torn write .*/journal\.jsonl$",
    "metrics written": r"write .*/metrics\.jsonl$",
    "metrics line torn": r"torn write .*/metrics\.jsonl$",
    "journal flushed": r"fsync .*/journal\.jsonl$",
    "prepare: hashes": r"os\.rename /.*/cache/.file_hashes",
    "prepare: intake": r"(opened .*\.building/work/|call intake)",
    "prepare: duplicates": r"call bands",
    "prepare: splits": r"opened .*\.building/\w+\.jsonl$",
    "prepare: work removed": r"(shutil\.rmtree|os\.remove|os\.rmdir) .*\.building/work",
    "prepare: tokenizer": r"(os\.mkdir|opened) .*\.building/tokenizer",
    "prepare: tokens": r"(opened .*\.building/\w+/(tokens|ends|\w+_lengths|text_ends)|call encode)",
    "prepare: flush": r"fsync .*\.building",
    "prepare: card": r"opened .*\.building/card\.json",
    "prepare: renamed": r"os\.rename .*\.building$",
    "prepare: in place": r"fsync .*/cache$",
    "model built": r"call build$",
    "step": r"call step$",
    "backward": r"call backward$",
    "save: begun": rf"os\.mkdir .*{_SAVED}$",
    "save: weights": rf"save_file .*{_SAVED}/model\.safetensors$",
    "save: weights torn": rf"torn save_file .*{_SAVED}/model\.safetensors$",
    "save: optimizer": rf"save_file .*{_SAVED}/optimizer\.safetensors$",
    "save: optimizer torn": rf"torn save_file .*{_SAVED}/optimizer\.safetensors$",
    "save: state": rf"opened .*{_SAVED}/state\.json$",
    "save: tokenizer": rf"opened .*{_SAVED}/tokenizer_config\.json$",
    "save: flush": rf"fsync .*{_SAVED}/",
    "save: manifest": rf"opened .*{_SAVED}/manifest\.json$",
    "save: manifest flushed": rf"fsync .*{_SAVED}/manifest\.json$",
    "save: renamed": rf"os\.rename .*{_SAVED}$",
    "save: in place": r"fsync .*/checkpoints$",
    "prune: renamed": r"os\.rename .*/checkpoints/step-\d+$",
    "prune: files": rf"os\.remove .*{_REMOVED}/",
    "prune: folder": rf"os\.rmdir .*{_REMOVED}$",
    "model/: begun": r"os\.mkdir .*/model\.partial$",
    "model/: link": r"os\.link .*/model\.partial/",
    "model/: copy": r"opened .*/model\.partial/",
    "model/: aside": r"os\.rename .*/model$",
    "model/: renamed": r"os\.rename .*/model\.partial$",
    "model/: previous": r"(shutil\.rmtree|os\.remove|os\.rmdir) .*/model\.previous",
    "evaluation: begun": r"call evaluate$",
    "evaluation: loss": r"call loss$",
    "evaluation: generation": r"call generate$",
    "evaluation: token": r"call token$",
    "evaluation: samples": r"(torn )?write .*/samples\.jsonl$",
    "end": r"call last words$",
}
"""Moments by the lines that a child reports; a kill comes before what the line says, but after `opened`."""

RESUME_PHASES = {
    "resume: samples rewritten": r"os\.rename .*samples\.jsonl",
    "resume: metrics opened": r"opened .*/\.metrics\.jsonl\.\d+\.tmp$",
    "resume: metrics renamed": r"os\.rename .*/\.metrics\.jsonl\.\d+\.tmp$",
    "resume: config.yaml": r"opened .*config\.yaml",
    "resume: record": r"os\.rename .*/\.run\.json\.\d+\.tmp$",
    "resume: model/": r"os\.rename .*/model$",
    "resume: step": r"call step$",
}
"""Moments of a start that continues; each comes at least once."""
_SETTLED_SECONDS = 2.5
_SHOWN_CHARACTERS = 1500


@dataclass(frozen=True)
class Kill:
    """One kill, by the clock or at a line of the child's (`fault_child`).

    Attributes:
        after_seconds: since the start; None for a kill at a line.
        trigger: at which line.
    """

    after_seconds: float | None = None
    trigger: Trigger | None = None

    def __str__(self) -> str:
        if self.trigger is None:
            return f"after {self.after_seconds:.3f} s"
        return f"at line {self.trigger.occurrence} of {self.trigger.pattern!r}"


@dataclass(frozen=True)
class Attempt:
    """One start of the command.

    Attributes:
        code: exit code, or minus the signal that ended it.
        seconds: how long it took.
        shown: what it printed.
        events: what it did, line by line.
        is_hung: whether it had to be killed after `LIMIT_SECONDS`.
    """

    code: int
    seconds: float
    shown: str
    events: tuple[str, ...] = ()
    is_hung: bool = False

    @property
    def last_words(self) -> str:
        """The end of what it printed, for a message."""
        return self.shown[-_SHOWN_CHARACTERS:]


class ForkServer:
    """Starts commands in a moment: the package is imported once, by a process that forks one child for each."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert self._receive()["threads"] == 1, "a fork would lose the threads"

    def close(self) -> None:
        """Ends the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def attempt(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        triggers: Sequence[Trigger] = (),
        clock: Sequence[tuple[float, int]] = (),
        limit_seconds: float = LIMIT_SECONDS,
        disk: Disk | None = None,
    ) -> Attempt:
        """Runs the command in a folder until it ends.

        Args:
            arguments: of `python -m recipe_exp`.
            folder: where it runs; it gets `temporary/` for its temporary files and `output.txt` for what it prints.
            triggers: what it does to itself, when.
            clock: pairs of seconds since the start and a signal.
            limit_seconds: it hangs if it takes longer.
            disk: what its disk refuses.
        """
        output, events = folder / "output.txt", folder / "events.txt"
        (folder / "temporary").mkdir(exist_ok=True)
        for file in (output, events):
            file.unlink(missing_ok=True)
        request = {
            "arguments": list(arguments),
            "folder": str(folder),
            "output": str(output),
            "events": str(events),
            "roots": [str(folder / name) for name in ("outputs", "cache", "temporary")],
            "environment": {"TMPDIR": str(folder / "temporary")},
            "triggers": [asdict(trigger) for trigger in triggers],
            "clock": list(clock),
            "limit_seconds": limit_seconds,
            "disk": asdict(disk or Disk()),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._receive()
        lines = tuple(events.read_text().splitlines()) if events.exists() else ()
        return Attempt(answer["code"], answer["seconds"], output.read_text(), lines, answer["is_hung"])

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def repeat_until_done(
    server: ForkServer, arguments: Sequence[str], folder: Path, kills: Sequence[Kill]
) -> list[Attempt]:
    """Starts a command, killing each start as planned, until a start is not killed.

    Raises:
        AssertionError: a start ended by itself with another code than 0, hung, or printed a trace.
    """
    attempts = []
    for kill in [*kills, Kill(after_seconds=10 * LIMIT_SECONDS)]:
        triggers = [kill.trigger] if kill.trigger is not None else []
        clock = [(kill.after_seconds, signal.SIGKILL)] if kill.after_seconds is not None else []
        attempt = server.attempt(arguments, folder, triggers=triggers, clock=clock)
        attempts.append(attempt)
        assert not attempt.is_hung, f"hung:\n{attempt.last_words}"
        assert "Traceback" not in attempt.shown, attempt.last_words
        if attempt.code != -signal.SIGKILL:
            assert attempt.code == 0, f"exit code {attempt.code} {kill}:\n{attempt.last_words}"
            break
    return attempts


def plan_kills(seed: int, first: str, whole: Attempt) -> list[Kill]:
    """Draws the kills of one case.

    Args:
        seed: decides everything that the name leaves open.
        first: a name of `PHASES` or `RESUME_PHASES`, or `clock`.
        whole: an uninterrupted run, from which the number of moments of each kind is known.

    Returns:
        The kill that `first` names, which comes for certain, and up to three later ones of any kind.
    """
    draw = random.Random(f"{seed} {first}")
    if first in RESUME_PHASES:
        kills = [_at(draw, r"call step$", whole, from_share=0.5), Kill(trigger=_trigger(RESUME_PHASES[first], 1))]
    elif first in PHASES:
        kills = [_at(draw, PHASES[first], whole)]
    else:
        kills = [_by_clock(draw, whole)]
    return kills + _later_kills(draw, whole)


def plan_kills_at(seed: int, pattern: str, whole: Attempt) -> list[Kill]:
    """Draws one kill at a line that matches, which comes for certain, and up to three later ones of any kind."""
    draw = random.Random(f"{seed} {pattern}")
    return [_at(draw, pattern, whole), *_later_kills(draw, whole)]


def _later_kills(draw: random.Random, whole: Attempt) -> list[Kill]:
    kills = []
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        pattern = draw.choice((None, r".", *PHASES.values()))
        kills.append(_by_clock(draw, whole) if pattern is None else _at(draw, pattern, whole, must_be_there=False))
    return kills


def _at(
    draw: random.Random, pattern: str, whole: Attempt, *, from_share: float = 0.0, must_be_there: bool = True
) -> Kill:
    count = sum(re.match(pattern, line) is not None for line in whole.events)
    assert count or not must_be_there, f"no line of an uninterrupted run matches {pattern!r}"
    return Kill(trigger=_trigger(pattern, draw.randint(1 + int(from_share * (count - 1)), max(count, 1))))


def _trigger(pattern: str, occurrence: int) -> Trigger:
    return Trigger(pattern, occurrence, signal.SIGKILL)


def _by_clock(draw: random.Random, whole: Attempt) -> Kill:
    return Kill(after_seconds=draw.uniform(0.0, whole.seconds))


def write_recipes(path: Path, count: int = 200) -> None:
    """Writes generated recipes, and waits until the hash of the file is worth remembering."""
    import recipe_exp

    recipes = recipe_exp.sample_recipes(seed=11)
    lines = [
        json.dumps({"title": recipe.title, "ingredients": recipe.ingredients, "instructions": recipe.instructions})
        for recipe, _ in zip(recipes, range(count), strict=False)
    ]
    path.write_text("\n".join(lines) + "\n")
    time.sleep(_SETTLED_SECONDS)


def preparing(command: Sequence[str]) -> list[str]:
    """The command that only prepares the data of a training command."""
    return [*(word for word in command if not word.startswith("resume=")), "task=prepare"]
