"""What several test modules share: small runs of the real thing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

# Test processes share the cores; more threads than cores would only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RECIPE_EXP_CONFIG_DIR"] = str(Path(__file__).parent / "no_user_config")

SMALL_RUN = (
    "data.max_examples=200",
    "data.validation_fraction=0.1",
    "data.test_fraction=0.05",
    "model.shape.d_model=32",
    "model.shape.d_ff=48",
    "model.shape.d_kv=8",
    "model.shape.vocab_size=700",
    "training.batch_size=16",
    "training.max_steps=8",
    "training.warmup_steps=2",
    "training.log_every_n_steps=3",
    "training.checkpoint_every_n_steps=2",
    "evaluation.every_n_steps=4",
    "evaluation.max_examples=12",
    "evaluation.max_generated_examples=3",
    "evaluation.max_new_tokens=12",
    "hardware=cpu",
    "hardware.num_threads=1",
    "hardware.micro_batch_tokens=2048",
)


@pytest.fixture(scope="session")
def small_settings() -> list[str]:
    """Overrides of a run that takes a second, but for where it writes."""
    return list(SMALL_RUN)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of token caches for every small run of a worker."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small_run(tmp_path: Path, cache_dir: Path) -> list[str]:
    """Overrides of a run that takes a second and writes below `tmp_path/outputs`."""
    places = [f"output_dir={tmp_path / 'outputs'}", f"data.cache_dir={cache_dir}"]
    return [*SMALL_RUN, *places, "tracking=journal_only"]


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def recipe_exp(tmp_path: Path) -> Command:
    """Runs `python -m recipe_exp` in a process of its own, in an empty folder."""

    def run(arguments: Sequence[str], timeout: float = 240, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "recipe_exp", *arguments],
            cwd=tmp_path,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def flex_trains_here() -> Iterator[None]:
    """Lifts PyTorch's refusal to train with FlexAttention on a CPU.

    Forward and backward pass are traced as in a run, and computed as PyTorch writes them out.
    """
    import torch
    from torch.nn.attention import flex_attention

    from recipe_exp.models.unpadded import flex
    from recipe_exp.models.unpadded.compiling import prepare_compiler

    prepare_compiler()
    traced = torch.compile(flex._flex, dynamic=True, fullgraph=True, backend="aot_eager")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flex_attention, "_validate_device", lambda *_: None)
        patch.setattr(flex, "_compiled", lambda: traced)
        yield
