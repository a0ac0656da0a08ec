"""The other side of `chaos.py`: a process that imports the package once and forks a child for every start of a command.

A child runs `recipe_exp.__main__.main` in a session and a folder of its own. It reports what it does as lines, `open w
PATH`, `os.rename PATH`, `call PLACE`; at the Nth line that a pattern matches it kills or signals itself, which is exact
where a clock would have to be lucky. The package knows nothing of it.

Run as a script it is the server: requests and answers are lines of JSON on its standard input and output.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import disk_faults

# What a child of a fork does not get is threads, so nothing may have started one before.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

_AUDITED = {
    "os.rename": (0, 2),
    "os.mkdir": (0, 2),
    "os.remove": (0, 1),
    "os.rmdir": (0, 1),
    "os.link": (1, 3),
    "os.truncate": (0, None),
    "shutil.rmtree": (0, None),
    "shutil.copyfile": (1, None),
    "sqlite3.connect": (0, None),
}
"""Audit events by where their path stands, and the descriptor of the folder that it is relative to."""

_CALLS = {
    "step": "recipe_exp.training.step:TrainingStep.__call__",
    "backward": "torch:Tensor.backward",
    "tracker": "recipe_exp.tracking.launch:UploaderHandle.finish",
    "evaluate": "recipe_exp.evaluation.evaluator:Evaluator.evaluate",
    "loss": "recipe_exp.models.sequence_loss:SequenceLoss.forward",
    "generate": "recipe_exp.evaluation.evaluator:generate",
    "token": "recipe_exp.evaluation.decoders:T5Decoder.scores",
    "build": "recipe_exp.models.load:build_model",
    "intake": "recipe_exp.data.preparation.intake:Intake.take",
    "bands": "recipe_exp.data.duplicates.key_file:KeyFile.band",
    "reject": "recipe_exp.data.preparation.pipeline:reject_line",
    "encode": "recipe_exp.data.tokens.tokenizer:RecipeTokenizer.encode_batch",
    "last words": "recipe_exp.tasks.summary:print_end",
}
"""Moments that touch no file, by the function whose call they are."""

_REPLACED_AT_FORK = (0, 1, 2)
_POLL_SECONDS = 0.002
_HANG_SECONDS = 3600.0
_UNWATCHED = ("/proc/", "/dev/", "/sys/")


@dataclass(frozen=True)
class Trigger:
    """When a child does something to itself, and what.

    Attributes:
        pattern: of the line.
        occurrence: which of the matching lines, from 1.
        signal: what the process sends itself; 0 makes it hang instead.
        after_seconds: how much later a signal arrives, while the process goes on.
    """

    pattern: str
    occurrence: int
    signal: int
    after_seconds: float = 0.0


class Watch:
    """Turns what this process does to files below some folders into lines, and pulls the triggers.

    Args:
        roots: folders whose files are watched.
        log_path: gets a copy of every line.
        triggers: pulled in any order, each once.
    """

    def __init__(self, roots: list[str], log_path: str, triggers: list[Trigger]) -> None:
        self._roots = tuple(os.path.realpath(root) for root in roots)
        self._log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._write = os.write
        self._waiting = [(trigger, re.compile(trigger.pattern), [0]) for trigger in triggers]
        self._process_id = os.getpid()

    def install(self) -> None:
        """Watches from here on."""
        self._watch_writes()
        self._watch_opened()
        for name, place in _CALLS.items():
            self._watch_call(name, place)
        sys.addaudithook(self._audit)

    def tell(self, line: str, tear: Callable[[], None] | None = None) -> None:
        """Reports a line, and before it the moment in which half of it has happened; may not return.

        Args:
            line: what is about to happen.
            tear: does the first half of it.
        """
        if os.getpid() != self._process_id:
            return  # a child between fork and exec
        if tear is not None:
            self._tell(f"torn {line}", tear)
        self._tell(line)

    def _tell(self, line: str, tear: Callable[[], None] | None = None) -> None:
        self._write(self._log, f"{line}\n".encode())
        for entry in list(self._waiting):
            trigger, pattern, count = entry
            if pattern.match(line):
                count[0] += 1
                if count[0] == trigger.occurrence:
                    self._waiting.remove(entry)
                    if tear is not None:
                        tear()
                    self._pull(trigger)

    def _pull(self, trigger: Trigger) -> None:
        self._write(self._log, f"pulled {trigger.signal}\n".encode())
        if trigger.signal == 0:
            time.sleep(_HANG_SECONDS)
        elif trigger.after_seconds == 0.0:
            os.kill(os.getpid(), trigger.signal)
        elif os.fork() == 0:
            time.sleep(trigger.after_seconds)
            os.kill(self._process_id, trigger.signal)
            os._exit(0)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path = self._watched(arguments[0])
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            if path is not None and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND):
                self.tell(f"open {path}")
        elif event in _AUDITED:
            position, folder = _AUDITED[event]
            path = self._watched(arguments[position], -1 if folder is None else arguments[folder])
            if path is not None:
                self.tell(f"{event} {path}")

    def _watched(self, path: Any, folder: int = -1) -> str | None:
        if isinstance(path, int) or path is None:
            return None
        text = os.fsdecode(path)
        if not text.startswith("/"):
            with contextlib.suppress(OSError):
                text = str(Path(f"/proc/self/fd/{folder}").readlink() / text) if folder >= 0 else str(Path.cwd() / text)
        if text.startswith(_UNWATCHED):
            return None
        return text if text.startswith(self._roots) else None

    def _path_of(self, descriptor: int) -> str | None:
        try:
            return self._watched(Path(f"/proc/self/fd/{descriptor}").readlink())
        except OSError:
            return None

    def _watch_writes(self) -> None:
        fsync, write = os.fsync, os.write

        def told_fsync(descriptor: Any) -> None:
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            path = self._path_of(number)
            if path is not None:
                self.tell(f"fsync {path}")
            fsync(descriptor)

        def told_write(descriptor: int, content: Any) -> int:
            path = self._path_of(descriptor)
            if path is not None:
                self.tell(f"write {path}", lambda: void(write(descriptor, bytes(content)[: len(content) // 2])))
            return write(descriptor, content)

        os.fsync, os.write = told_fsync, told_write
        module = importlib.import_module("recipe_exp.training.checkpoint")
        save_file = module.save_file

        def told_save_file(tensors: Any, path: Any, *arguments: Any, **keywords: Any) -> None:
            def tear() -> None:
                save_file(tensors, path, *arguments, **keywords)
                os.truncate(path, Path(path).stat().st_size // 2)

            self.tell(f"save_file {path}", tear)
            save_file(tensors, path, *arguments, **keywords)

        module.save_file = told_save_file  # type: ignore[attr-defined]

    def _watch_opened(self) -> None:
        """A file that was opened for writing, and is still empty, is a moment of its own."""
        opener = io.open

        def told_open(file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
            stream = opener(file, mode, *arguments, **keywords)
            path = self._watched(file) if set(mode) & set("wax+") else None
            if path is not None:
                self.tell(f"opened {path}")
            return stream

        builtins.open = io.open = told_open  # type: ignore[assignment]

    def _watch_call(self, name: str, place: str) -> None:
        module_name, _, attributes = place.partition(":")
        owner: Any = importlib.import_module(module_name)
        *path, last = attributes.split(".")
        for attribute in path:
            owner = getattr(owner, attribute)
        function = getattr(owner, last)

        def told(*arguments: Any, **keywords: Any) -> Any:
            self.tell(f"call {name}")
            return function(*arguments, **keywords)

        setattr(owner, last, told)


def void(_: object) -> None:
    """Drops a result."""


def run_child(request: dict[str, Any]) -> None:
    """Becomes one start of the command; does not return."""
    os.setsid()
    os.chdir(request["folder"])
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for number, source in zip(_REPLACED_AT_FORK, (null, output, output), strict=True):
        os.dup2(source, number)
    os.environ.update(request["environment"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.argv = ["recipe_exp", *request["arguments"]]
    code = 1
    try:
        disk_faults.install(**request["disk"])
        Watch(request["roots"], request["events"], [Trigger(**fields) for fields in request["triggers"]]).install()
        from recipe_exp.__main__ import main

        code = main(request["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _attend(process_id: int, request: dict[str, Any]) -> dict[str, Any]:
    """Waits for a child, and sends it the signals that are due by the clock."""
    start = time.monotonic()
    due = sorted(map(tuple, request["clock"]))
    deadline = start + request["limit_seconds"]
    is_hung = False
    while True:
        ended, status = os.waitpid(process_id, os.WNOHANG)
        now = time.monotonic()
        if ended:
            return {"code": os.waitstatus_to_exitcode(status), "seconds": now - start, "is_hung": is_hung}
        if due and now >= start + due[0][0]:
            os.kill(process_id, due.pop(0)[1])
        if now >= deadline:
            is_hung = True
            os.kill(process_id, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def serve() -> None:
    """Answers requests until standard input ends."""
    requests, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w", buffering=1)
    for name in ("recipe_exp.__main__", "recipe_exp.tasks.train", "recipe_exp.tasks.evaluate", "torch", "transformers"):
        importlib.import_module(name)
    for place in _CALLS.values():
        importlib.import_module(place.partition(":")[0])
    print(json.dumps({"threads": len(list(Path("/proc/self/task").iterdir()))}), file=answers)
    for line in requests:
        request = json.loads(line)
        process_id = os.fork()
        if process_id == 0:
            requests.close()
            answers.close()
            run_child(request)
        print(json.dumps(_attend(process_id, request)), file=answers)


if __name__ == "__main__":
    serve()
