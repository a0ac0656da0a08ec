"""Numbers that go wrong in a real run: what the run does, says and keeps."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from recipe_exp.__main__ import main

CALLBACKS = """
import torch
from recipe_exp import Callback

class Poison(Callback):
    factor = float("nan")

    def on_step_begin(self, trainer):
        if trainer.state.step == 4:
            with torch.no_grad():
                for parameter in trainer.step.model.parameters():
                    parameter.mul_(self.factor)

class Explode(Poison):
    factor = 30.0

class Exhaust(Callback):
    def on_step_begin(self, trainer):
        if trainer.state.step == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of ...")
"""

KEYS = (
    "training.callbacks=[faulty_callbacks:{}]",
    "training.log_every_n_steps=1",
    "training.checkpoint_every_n_steps=2",
    "evaluation.every_n_steps=2",
    "evaluation.max_generated_examples=1",
)


@pytest.fixture
def faulty_run(small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "faulty_callbacks.py").write_text(CALLBACKS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return small_run


def with_callback(run: list[str], name: str, *more: str) -> list[str]:
    return [*run, *(key.format(name) for key in KEYS), *more]


def only_run(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    return folder


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return record


def series(folder: Path, name: str) -> dict[int, float]:
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {entry["step"]: entry["metrics"][name] for entry in entries if name in entry["metrics"]}


def is_finite(model: Path) -> bool:
    return all(bool(torch.isfinite(weight).all()) for weight in load_file(model / "model.safetensors").values())


def test_weights_that_became_nan_stop_the_run_with_one_line(
    faulty_run: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(with_callback(faulty_run, "Poison")) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line]
    assert re.match(
        r"error: step 5: its gradient is not finite; .* It learnt from training recipes \d+ \(.+\), .* and 13 more; "
        r"the last good checkpoint is step-00000004; .*training\.on_non_finite=skip_step or rollback$",
        line,
    )
    folder = only_run(tmp_path)
    record = record_of(folder)
    assert (record["status"], record["best"]["step"]) == ("failed", 4)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-00000004"]
    assert is_finite(folder / "model")


def test_a_rollback_repairs_the_weights_and_the_run_ends(
    faulty_run: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(with_callback(faulty_run, "Poison", "training.on_non_finite=rollback")) == 0
    shown = capfd.readouterr().out
    assert re.search(r"warning: step 5: its gradient is not finite.*going back to it and on after step 5", shown)
    folder = only_run(tmp_path)
    assert record_of(folder)["status"] == "finished"
    assert series(folder, "train/skipped_steps") == {6: 1.0, 7: 1.0, 8: 1.0}
    assert is_finite(folder / "model")
    assert is_finite(folder / "checkpoints" / "step-00000008")


def test_an_exploding_loss_stops_or_rolls_back_and_is_never_the_best(
    faulty_run: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(with_callback(faulty_run, "Explode")) == 1
    assert "error: step 5: the loss exploded to " in capfd.readouterr().err
    folder = only_run(tmp_path)
    assert record_of(folder)["best"]["step"] == 4
    resumed = with_callback(faulty_run, "Explode", "training.on_non_finite=rollback", "resume=latest")
    assert main(resumed) == 0
    assert "the loss exploded" in capfd.readouterr().out
    losses = series(folder, "train/loss")
    assert sorted(losses) == list(range(1, 9))
    assert losses[5] > losses[4] + 3.0 > losses[6]
    assert all(math.isfinite(loss) for loss in losses.values())


def test_full_memory_is_one_line_with_the_remedy(
    faulty_run: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(with_callback(faulty_run, "Exhaust")) == 1
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert "out of memory in micro-batches of 2,048 tokens; add model.gradient_checkpointing=true" in error
    assert record_of(only_run(tmp_path))["status"] == "failed"


def test_a_time_limit_changes_no_number_and_says_how_to_go_on(
    faulty_run: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run that is cut into pieces by its time limit gives the numbers of one that is not."""
    assert main([*faulty_run, "run_name=whole"]) == 0
    whole = only_run(tmp_path)
    whole = whole.rename(tmp_path / "whole")
    pieces = [*faulty_run, "training.stop_after_hours=1e-9", "resume=latest"]
    codes = [main(pieces) for _ in range(8)]
    assert codes == [75] * 7 + [0]
    folder = only_run(tmp_path)
    assert f"python -m recipe_exp resume={record_of(folder)['run_id']}" in capfd.readouterr().out
    for name in ("model.safetensors", "optimizer.safetensors"):
        last = "checkpoints/step-00000008"
        assert (folder / last / name).read_bytes() == (whole / last / name).read_bytes()
    for name in ("train/loss", "train/grad_norm", "eval/loss", "eval/bleu"):
        assert series(folder, name) == series(whole, name)
