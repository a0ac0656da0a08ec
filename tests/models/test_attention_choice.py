"""The kernel of a run is one that was seen to be right."""

from __future__ import annotations

import pytest
import torch

from recipe_exp.models import attention_choice
from recipe_exp.models.attention_choice import choose_attention, largest_error, loss_and_gradients


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 3e-2)])
def test_every_kernel_is_right_here(kernel: str, precision: str, tolerance: float) -> None:
    assert largest_error(kernel, "cpu", precision) < tolerance


def test_what_is_configured_is_taken() -> None:
    assert choose_attention("sdpa", "cpu", "fp32").kernel == "sdpa"
    assert choose_attention("auto", "cpu", "fp32").kernel == "eager"


@pytest.mark.parametrize("fault", ["none", "wrong numbers", "does not run"])
def test_a_gpu_takes_the_fused_kernel_only_where_it_is_right(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """The device is the CPU under a GPU's name: there is none here."""

    def on_a_gpu(kernel: str, device: str, precision: str) -> torch.Tensor:
        found = loss_and_gradients(kernel, "cpu", precision)
        if device == "cuda" and fault == "does not run":
            raise RuntimeError("no kernel image is available")
        return found * 1.1 if device == "cuda" and fault == "wrong numbers" else found

    monkeypatch.setattr(attention_choice, "loss_and_gradients", on_a_gpu)
    choice = choose_attention("auto", "cuda", "fp32")
    assert choice.kernel == ("sdpa" if fault == "none" else "eager")
    assert {"none": "right to", "wrong numbers": "other numbers", "does not run": "no kernel image"}[
        fault
    ] in choice.reason
