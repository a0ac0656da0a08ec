from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from recipe_exp.tracking import (
    PRUNING_VARIABLE,
    TRIAL_VARIABLE,
    RunFolder,
    answer_trial,
    pruning_folder,
    pruning_question,
)


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    folder = RunFolder.create(tmp_path, run_name="sweep", kind="sweep", command=[])
    monkeypatch.setenv(PRUNING_VARIABLE, str(pruning_folder(folder)))
    monkeypatch.setenv(TRIAL_VARIABLE, "key")
    return folder


def test_nobody_is_asked_outside_a_sweep_that_prunes(sweep: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pruning_question() is not None
    monkeypatch.delenv(PRUNING_VARIABLE)
    assert pruning_question() is None


def test_the_answer_is_waited_for(sweep: RunFolder) -> None:
    question = pruning_question(20.0)
    assert question is not None
    answer_trial(sweep, "key", 10, is_pruned=False)
    assert question(10) is False
    later = threading.Timer(0.2, lambda: answer_trial(sweep, "key", 20, is_pruned=True))
    later.start()
    began = time.monotonic()
    assert question(20) is True
    assert 0.1 < time.monotonic() - began < 10.0
    later.join()


def test_without_an_answer_the_run_goes_on(sweep: RunFolder) -> None:
    question = pruning_question(0.1)
    assert question is not None
    assert question(10) is False
    answer_trial(sweep, "another", 10, is_pruned=True)
    answer_trial(sweep, "key", 5, is_pruned=True)
    assert question(10) is False
    (pruning_folder(sweep) / "key.json").write_text("[")
    assert question(10) is False
