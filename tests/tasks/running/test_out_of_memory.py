"""Memory that really runs out: the address space of a training process is limited in the middle of its run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_runs import record_of

LIMIT = """
import resource
from pathlib import Path
from recipe_exp import Callback

class Limit(Callback):
    def on_step_begin(self, trainer):
        if trainer.state.step == 2:
            used = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (used + {megabytes} * 2**20, resource.RLIM_INFINITY))

    def on_step_end(self, trainer, result):
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
WIDE = (
    "model.shape.d_ff=2048",
    "training.batch_size=64",
    "training.max_steps=4",
    "training.log_every_n_steps=1",
    "training.checkpoint_every_n_steps=null",
    "evaluation.every_n_steps=null",
    "data.max_examples=400",
    "hardware.micro_batch_tokens=auto",
)


@pytest.fixture
def limited(small_run: list[str], recipe_exp: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Runs a wide model whose third step has room for so many megabytes only."""

    def run(megabytes: int | None, *overrides: str) -> Any:
        if megabytes is not None:
            (tmp_path / "limit.py").write_text(LIMIT.format(megabytes=megabytes))
            overrides = (*overrides, "training.callbacks=[limit:Limit]")
        # Memory that the allocator keeps would not count against the limit.
        return recipe_exp([*small_run, *WIDE, *overrides], MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="0")

    return run


@pytest.mark.long
def test_the_same_window_is_learnt_from_in_smaller_micro_batches(limited: Callable[..., Any], tmp_path: Path) -> None:
    whole = limited(None, "run_name=whole")
    assert whole.returncode == 0, whole.stderr
    small = limited(120, "run_name=small")
    assert small.returncode == 0, small.stderr
    assert "out of memory in micro-batches of" in small.stdout
    folders = sorted((tmp_path / "outputs" / "runs").iterdir())
    then, now = (record_of(folder)["machinery"]["micro_batch_tokens"] for folder in folders)
    assert now < then
    assert f"hardware.micro_batch_tokens={now}" in small.stdout

    def losses(folder: Path) -> list[float]:
        lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        return [line["metrics"]["train/loss"] for line in lines if "train/loss" in line["metrics"]]

    assert losses(folders[1]) == pytest.approx(losses(folders[0]), rel=1e-4)
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in folders)
    for name, weight in first.items():
        assert (weight - second[name]).norm() <= 1e-3 * weight.norm(), name


@pytest.mark.long
def test_where_one_example_does_not_fit_the_line_says_what_would(limited: Callable[..., Any], tmp_path: Path) -> None:
    # What one example needs; Python itself finds room in what is left.
    vast = ("model.shape.d_ff=8192", "training.batch_size=2", "training.checkpoint_every_n_steps=1")
    ended = limited(12, *vast)
    assert ended.returncode == 1, ended.stdout[-2500:] + ended.stderr[-2500:]
    assert "error:" in ended.stderr, ended.stderr[-3000:]
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert "step 3: out of memory in micro-batches of" in line
    tokens = record_of(next((tmp_path / "outputs" / "runs").iterdir()))["machinery"]["micro_batch_tokens"]
    assert "model.gradient_checkpointing=true" in line
    assert "task=plan" in line
    assert "resume=" in line
    assert "Traceback" not in ended.stderr
    (folder,) = (tmp_path / "outputs" / "runs").iterdir()
    assert record_of(folder)["status"] == "failed"
    again = limited(None, *vast, "training.callbacks=[]", f"resume={record_of(folder)['run_id']}")
    assert again.returncode == 0, again.stderr
    # What the memory was found to have room for is remembered.
    assert record_of(folder)["machinery"]["micro_batch_tokens"] == tokens < 16384
