from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.sweeping import executors
from recipe_exp.sweeping.executors import Exit, LocalExecutor
from recipe_exp.sweeping.grid import Trial
from recipe_exp.sweeping.slots import Machine
from recipe_exp.sweeping.trials import Job, StopSignals, TrialPool


def test_signals_are_taken_once_and_handlers_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopSignals() as stop:
        assert stop.first is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.first == signal.SIGTERM
        assert stop.pending() == [signal.SIGTERM, signal.SIGINT]
        assert stop.pending() == []
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_trials_end_when_the_sweep_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(["hardware=cpu"])
    started: list[Any] = []
    start = executors.subprocess.Popen

    def sleep(_command: list[str], **options: Any) -> Any:
        started.append(start(["sleep", "60" if len(started) == 0 else "0"], **options))
        return started[-1]

    monkeypatch.setattr(executors.subprocess, "Popen", sleep)

    class FullDisk:
        is_done = True
        jobs: ClassVar = [Job(Trial(number, (), {"seed": str(number)}, config)) for number in (1, 2)]

        def next(self) -> Job | None:
            return self.jobs.pop() if self.jobs else None

        def on_end(self, job: Job, exit: Exit) -> None:
            raise OSError("disk full")

        def on_tick(self) -> None:
            pass

    pool = TrialPool(Machine(2, 1), LocalExecutor(), tmp_path, {}, StopSignals())
    with pytest.raises(OSError, match="disk full"):
        pool.run(FullDisk())
    assert [process.returncode for process in started] == [-signal.SIGTERM, 0]
