"""Sends messages to chats, phones and mailboxes from a process of its own, so that training never waits for them.

    python -m recipe_exp.tracking.notify VARIABLE ...

Each environment variable holds an address that apprise knows. Messages come as lines of JSON on standard input; what
becomes of each goes to standard output. No address is ever written anywhere.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import apprise

READY, UNKNOWN, DELIVERED, FAILED = "ready", "unknown", "delivered", "failed"
"""First words of the lines on standard output; the name of the variable follows."""

_SECONDS_AFTER_END = 30.0
_SECONDS_BEFORE_RETRY = 5.0
_MAX_WAITING = 20


class Endpoint:
    """One address, with a thread that sends to it, so that a dead one does not delay the others.

    Args:
        name: of the environment variable.
        address: what it holds.

    Raises:
        ValueError: apprise knows no such address.
    """

    def __init__(self, name: str, address: str) -> None:
        asset = apprise.AppriseAsset(app_id="recipe_exp", app_desc="recipe_exp", app_url="", image_url_mask="")
        self.name = name
        self._services = apprise.Apprise(asset=asset)
        if not self._services.add(address) or len(self._services) == 0:
            raise ValueError("unknown address")
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, message: dict[str, Any] | None) -> None:
        """Send when those before are sent; None ends the thread. A message too many pushes the oldest out."""
        while True:
            try:
                self._messages.put_nowait(message)
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._messages.get_nowait()
                    say(FAILED, self.name)
            else:
                return

    def join(self, deadline: float) -> None:
        """Wait for the thread, until `deadline` of the monotonic clock."""
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while (message := self._messages.get()) is not None:
            is_delivered = self._deliver(message)
            say(DELIVERED if is_delivered else FAILED, self.name)
            if not is_delivered:
                time.sleep(_SECONDS_BEFORE_RETRY)
                self._deliver(message)

    def _deliver(self, message: dict[str, Any]) -> bool:
        # Services refuse a message without a text.
        title, body = (message["title"], message["body"]) if message["body"] else ("", message["title"])
        try:
            sent = self._services.notify(
                title=title,
                body=body,
                notify_type=message["kind"],
                body_format=apprise.NotifyFormat.TEXT,
            )
        except Exception:  # a service's own fault; its message might show the address
            return False
        return bool(sent)


def say(word: str, name: str = "") -> None:
    """Tell training, if it is still there."""
    with contextlib.suppress(OSError):
        print(word, name, flush=True)


def main(names: Sequence[str]) -> int:
    """Send what comes on standard input until it ends, and what was left for the case that training is killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Both reach every process of a terminal or a job; training still has something to say about them.
        signal.signal(number, signal.SIG_IGN)
    logging.getLogger("apprise").addHandler(logging.NullHandler())
    logging.getLogger("apprise").propagate = False
    endpoints = []
    for name in names:
        try:
            endpoints.append(Endpoint(name, os.environ[name]))
        except (KeyError, ValueError, TypeError):
            say(UNKNOWN, name)
            return 2
    say(READY)
    last_words: dict[str, Any] | None = None
    for line in sys.stdin:
        message = json.loads(line)
        if "last_words" in message:
            last_words = message["last_words"]
            continue
        for endpoint in endpoints:
            endpoint.send(message)
    deadline = time.monotonic() + _SECONDS_AFTER_END
    for endpoint in endpoints:
        if last_words is not None:
            endpoint.send(last_words)
        endpoint.send(None)
    for endpoint in endpoints:
        endpoint.join(deadline)
    return 0


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    # Threads of a service that hangs would be waited for.
    os._exit(exit_code)
