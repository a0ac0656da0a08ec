"""The kernel of a run is one that was seen to be right."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from recipe_exp.models import attention_choice
from recipe_exp.models.attention_choice import choose_attention, largest_error, loss_and_gradients


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts the CPU under a GPU's name, with a fault: there is no GPU here."""

    def install(fault: str) -> None:
        def compute(kernel: str, device: str, precision: str) -> torch.Tensor:
            found = loss_and_gradients(kernel, "cpu", precision)
            if device == "cuda" and fault == "does not run":
                raise RuntimeError("no kernel image is available")
            return found * 1.1 if device == "cuda" and fault == "wrong numbers" else found

        monkeypatch.setattr(attention_choice, "loss_and_gradients", compute)

    return install


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 3e-2)])
def test_every_kernel_is_right_here(kernel: str, precision: str, tolerance: float) -> None:
    assert largest_error(kernel, "cpu", precision) < tolerance


def test_what_is_configured_is_taken() -> None:
    assert choose_attention("sdpa", "cpu", "fp32").kernel == "sdpa"
    assert choose_attention("auto", "cpu", "fp32").kernel == "eager"


@pytest.mark.parametrize(
    ("device", "precision", "kernel", "needs"),
    [
        ("cpu", "bf16", "eager", "a GPU"),
        ("cuda", "fp32", "sdpa", "training.precision=bf16"),
        ("cuda", "bf16", "sdpa", "the extra `flash`"),
    ],
)
def test_a_kernel_that_cannot_run_gives_way_and_says_why(
    on_a_gpu: Callable[[str], None], device: str, precision: str, kernel: str, needs: str
) -> None:
    on_a_gpu("none")
    choice = choose_attention("sdpa_varlen", device, precision)
    assert choice.kernel == kernel
    assert choice.reason.startswith(f"sdpa_varlen needs {needs}; ")


@pytest.mark.parametrize("configured", ["auto", "sdpa_varlen"])
@pytest.mark.parametrize("fault", ["none", "wrong numbers"])
def test_flash_attn_is_taken_where_it_is_right(
    monkeypatch: pytest.MonkeyPatch,
    on_a_gpu: Callable[[str], None],
    flash_attn: ModuleType,
    configured: str,
    fault: str,
) -> None:
    monkeypatch.setattr(attention_choice, "find_spec", lambda name: name)
    on_a_gpu("none")
    if fault == "wrong numbers":
        right = flash_attn.flash_attn_varlen_func
        monkeypatch.setattr(flash_attn, "flash_attn_varlen_func", lambda *args, **more: 1.5 * right(*args, **more))
    choice = choose_attention(configured, "cuda", "bf16")
    assert choice.kernel == ("sdpa_varlen" if fault == "none" else "sdpa")
    assert ("sdpa_varlen gives other numbers here" in choice.reason) == (fault == "wrong numbers")
    assert "right to" in choice.reason


@pytest.mark.parametrize("fault", ["none", "wrong numbers", "does not run"])
def test_a_gpu_takes_the_fused_kernel_only_where_it_is_right(on_a_gpu: Callable[[str], None], fault: str) -> None:
    on_a_gpu(fault)
    choice = choose_attention("auto", "cuda", "fp32")
    assert choice.kernel == ("sdpa" if fault == "none" else "eager")
    assert {"none": "right to", "wrong numbers": "other numbers", "does not run": "no kernel image"}[
        fault
    ] in choice.reason
