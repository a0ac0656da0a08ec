"""Training's side of notifications: what is said goes to a process that sends it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from recipe_exp.errors import ConfigError
from recipe_exp.secrets import redact
from recipe_exp.tracking.launch import child_environment

_MODULE = "recipe_exp.tracking.notify"
_START_SECONDS = 30.0
_END_SECONDS = 2.0
# A line of up to 4,096 bytes is written to a pipe whole or not at all.
_MAX_TITLE_CHARACTERS = 120
_MAX_BODY_CHARACTERS = 700


@dataclass(frozen=True)
class Message:
    """What a person reads.

    Attributes:
        title: one line.
        body: some lines.
        kind: how bad it is; services show it as a colour.
    """

    title: str
    body: str
    kind: Literal["info", "success", "warning", "failure"] = "info"


def address_mistakes(names: Sequence[str]) -> list[str]:
    """One line for everything that is known to be wrong before anything is sent; loads nothing."""
    if names and importlib.util.find_spec("apprise") is None:
        return ["tracking.notify: needs apprise; install it with pip install 'recipe-exp[notify]'"]
    return [
        f"tracking.notify: no environment variable {name}; set it, or write it into .env, to an apprise URL or a "
        "webhook of Discord or Slack"
        for name in names
        if not os.environ.get(name)
    ]


class Notifier:
    """Hands messages to the process that sends them; nothing here waits for a network or raises.

    Args:
        names: of the environment variables that hold the addresses.
        warn: told once, in one line, when a message was not delivered.

    Attributes:
        process_id: of the process that sends.

    Raises:
        ConfigError: a variable is not set, or holds nothing that apprise knows.
    """

    def __init__(self, names: Sequence[str], warn: Callable[[str], None]) -> None:
        mistakes = address_mistakes(names)
        if mistakes:
            raise ConfigError(mistakes)
        self._num_endpoints = len(names)
        self._warn: Callable[[str], None] | None = warn
        self._num_expected = 0
        self._num_answered = 0
        self._changed = threading.Condition()
        self._is_ready = False
        self._unknown: str | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=child_environment(),
            start_new_session=True,
        )
        self.process_id = self._process.pid
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        threading.Thread(target=self._listen, name="notifier", daemon=True).start()
        self._wait_until_ready(names)

    def send(self, message: Message) -> None:
        """Have a message sent."""
        if self._write(_as_data(message)):
            self._num_expected += self._num_endpoints

    def leave_last_words(self, message: Message | None) -> None:
        """Have a message sent when this process ends without having closed this; None takes it back."""
        self._write({"last_words": _as_data(message) if message is not None else None})

    def close(self) -> None:
        """Wait until everything was sent, two seconds at most; half a minute longer it is tried without the run."""
        self.leave_last_words(None)
        deadline = time.monotonic() + _END_SECONDS
        with self._changed:
            self._changed.wait_for(
                lambda: self._num_answered >= self._num_expected or self._process.poll() is not None,
                max(0.0, deadline - time.monotonic()),
            )
            is_answered = self._num_answered >= self._num_expected
        with contextlib.suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        if not is_answered:
            self._complain("an address of tracking.notify does not answer")

    def _wait_until_ready(self, names: Sequence[str]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_ready or self._unknown is not None, _START_SECONDS)
        if self._unknown == "":
            raise ConfigError(
                [
                    "tracking.notify: the process that sends notifications does not start; see why with "
                    f"python -m {_MODULE} {' '.join(names)}"
                ]
            )
        if self._unknown is not None:
            raise ConfigError(
                [
                    f"tracking.notify: the environment variable {self._unknown} holds no address that apprise knows; "
                    "see the services it lists, or paste a webhook of Discord or Slack"
                ]
            )

    def _write(self, line: object) -> bool:
        assert self._process.stdin is not None
        content = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        try:
            return os.write(self._process.stdin.fileno(), content) == len(content)
        except (OSError, ValueError):
            self._complain("the process that sends notifications is gone")
            return False

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            word, _, name = line.decode().strip().partition(" ")
            with self._changed:
                self._is_ready |= word == "ready"
                self._unknown = name if word == "unknown" else self._unknown
                self._num_answered += word in ("delivered", "failed")
                self._changed.notify_all()
            if word == "failed":
                self._complain(f"the address in {name} took no message")
        with self._changed:
            if not self._is_ready and self._unknown is None:
                self._unknown = ""
            self._changed.notify_all()

    def _complain(self, what: str) -> None:
        with self._changed:
            warn, self._warn = self._warn, None
        if warn is not None:
            warn(f"warning: {what}; the run goes on, and this is said once")


def _as_data(message: Message) -> dict[str, str]:
    data = asdict(message)
    limits = {"title": _MAX_TITLE_CHARACTERS, "body": _MAX_BODY_CHARACTERS}
    return {name: _printable(text, limits.get(name, _MAX_TITLE_CHARACTERS)) for name, text in data.items()}


def _printable(text: str, limit: int) -> str:
    text = redact(text).encode(errors="replace").decode()
    text = "".join(character if character.isprintable() or character == "\n" else " " for character in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."
