"""What tests of whole runs share: training in this process, stopping at a step, and reading what a run has left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipe_exp.config.compose import compose
from recipe_exp.tasks.train import TrainResult, train
from recipe_exp.tracking.machine_metrics import MACHINE_METRICS
from recipe_exp.training.callbacks import Callback
from recipe_exp.training.lifecycle import StopReason
from recipe_exp.training.state import StepResult
from recipe_exp.training.trainer import Trainer


class StopAt(Callback):
    """Stands in for SIGTERM at a given step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
        if result.step == self.step:
            trainer.stop(StopReason.SIGTERM)


def run(overrides: Sequence[str], *callbacks: Callback) -> TrainResult:
    return train(compose(overrides), callbacks)


def folder_of(place: TrainResult | Path) -> Path:
    """The run folder of what `run` returned; a folder stands for itself."""
    folder = place if isinstance(place, Path) else place.folder
    assert folder is not None
    return folder


def record_of(place: TrainResult | Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder_of(place) / "run.json").read_text())
    return record


def newest_checkpoint(place: TrainResult | Path) -> Path:
    return sorted((folder_of(place) / "checkpoints").glob("step-*"))[-1]


def final_state(place: TrainResult | Path) -> dict[str, str]:
    """Hashes of the last checkpoint's tensors."""
    files = newest_checkpoint(place).glob("*.safetensors")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def series(place: TrainResult | Path) -> list[tuple[int, dict[str, float]]]:
    """Every logged point but speeds and memory, which no two runs share."""
    lines = [json.loads(line) for line in (folder_of(place) / "metrics.jsonl").read_text().splitlines()]
    return [
        (line["step"], {name: value for name, value in line["metrics"].items() if name not in MACHINE_METRICS})
        for line in lines
        if "machinery/actual_peak_bytes" not in line["metrics"]
    ]


def again(place: TrainResult | Path, *overrides: str) -> list[str]:
    """The command that continues a run by its id."""
    return [f"output_dir={folder_of(place).parent.parent}", f"resume={record_of(place)['run_id']}", *overrides]
