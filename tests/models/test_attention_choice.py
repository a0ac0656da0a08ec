"""The kernel of a run is the fastest of those that were seen to be right."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

from recipe_exp.config.model import ModelShape
from recipe_exp.models import attention_choice
from recipe_exp.models.attention_choice import (
    AttentionSetting,
    choose_attention,
    largest_error,
    loss_and_gradients,
    seconds_of,
)
from recipe_exp.models.sequence_loss import SequenceLoss

SHAPE = ModelShape(vocab_size=60, d_model=16, d_kv=16, d_ff=24, num_layers=2, num_decoder_layers=1, num_heads=2)
GPU = AttentionSetting("cuda", "bf16", SHAPE, is_compiled=True)
PACKAGES = ("flash_attn", "triton")
Installer = Callable[..., None]

pytestmark = pytest.mark.usefixtures("flex_trains_here")


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch, flash_attn: ModuleType) -> Installer:
    """Puts the CPU under a GPU's name, since there is no GPU here.

    `on_a_gpu(packages, wrong, drops_wrongly, failing, fastest)`: what is installed, which kernels have a fault, and
    which one takes the least time.
    """

    def install(
        packages: Collection[str] = PACKAGES,
        wrong: Collection[str] = (),
        drops_wrongly: Collection[str] = (),
        failing: Collection[str] = (),
        fastest: str = "sdpa",
    ) -> None:
        def compute(kernel: str, device: str, precision: str, *, has_dropout: bool = False) -> torch.Tensor:
            found = loss_and_gradients(kernel, "cpu", precision, has_dropout=has_dropout)
            if device == "cuda" and kernel in failing:
                raise RuntimeError("no kernel image is available")
            has_fault = kernel in wrong or (has_dropout and kernel in drops_wrongly)
            return found * 1.1 if device == "cuda" and has_fault else found

        def seconds(kernel: str, setting: AttentionSetting) -> float:
            taken = seconds_of(kernel, replace(setting, device="cpu"))
            return taken if kernel == fastest else taken + 60.0

        monkeypatch.setattr(attention_choice, "loss_and_gradients", compute)
        monkeypatch.setattr(attention_choice, "seconds_of", seconds)
        monkeypatch.setattr(attention_choice, "find_spec", lambda name: name if name in packages else None)
        monkeypatch.setattr(attention_choice, "_TYPICAL_LENGTHS", ((5, 12), (7, 3)))

    return install


@pytest.mark.parametrize("kernel", ["eager", "sdpa", "flex"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 3e-2)])
def test_every_kernel_is_right_here(kernel: str, precision: str, tolerance: float) -> None:
    assert largest_error(kernel, "cpu", precision) < tolerance


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_timing_a_kernel_leaves_the_random_state_of_a_run(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    monkeypatch.setattr(attention_choice, "_TYPICAL_LENGTHS", ((5, 12), (7, 3)))
    before = torch.get_rng_state()
    assert 0.0 < seconds_of(kernel, replace(GPU, device="cpu", precision="fp32")) < 60.0
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_configured_is_taken(on_a_gpu: Installer) -> None:
    cpu = replace(GPU, device="cpu")
    assert choose_attention("sdpa", cpu).kernel == "sdpa"
    assert choose_attention("auto", cpu).kernel == "eager"
    on_a_gpu(fastest="sdpa")
    for kernel in ("sdpa_varlen", "flex", "flex_varlen"):
        choice = choose_attention(kernel, replace(GPU, is_compiled=False))
        assert choice.kernel == kernel
        assert choice.reason.startswith("right to")


@pytest.mark.parametrize(
    ("configured", "device", "precision", "taken", "needs"),
    [
        ("sdpa_varlen", "cpu", "bf16", "eager", "a GPU"),
        ("flex", "cpu", "bf16", "eager", "a GPU"),
        ("sdpa_varlen", "cuda", "fp32", "sdpa", "training.precision=bf16"),
        ("sdpa_varlen", "cuda", "bf16", "sdpa", "the extra `flash`"),
        ("flex", "cuda", "bf16", "sdpa", "Triton"),
        ("flex_varlen", "cuda", "bf16", "sdpa", "Triton"),
    ],
)
def test_a_kernel_that_cannot_run_gives_way_and_says_why(
    on_a_gpu: Installer, configured: str, device: str, precision: str, taken: str, needs: str
) -> None:
    on_a_gpu(packages=())
    choice = choose_attention(configured, replace(GPU, device=device, precision=precision))
    assert choice.kernel == taken
    assert choice.reason.startswith(f"{configured} needs {needs}; ")


@pytest.mark.parametrize("fastest", ["sdpa", "sdpa_varlen", "flex", "flex_varlen"])
def test_the_fastest_kernel_is_taken_and_the_others_are_named(on_a_gpu: Installer, fastest: str) -> None:
    on_a_gpu(fastest=fastest)
    choice = choose_attention("auto", GPU)
    assert choice.kernel == fastest
    assert choice.reason.startswith("timed sdpa ")
    for kernel in ("sdpa", "sdpa_varlen", "flex", "flex_varlen"):
        assert f"{kernel} " in choice.reason
    assert "right to" in choice.reason


@pytest.mark.parametrize(
    ("setting", "taken"),
    [
        (replace(GPU, is_compiled=False), "sdpa_varlen"),
        (replace(GPU, precision="fp32"), "flex"),
        (replace(GPU, is_padded=True), "sdpa"),
    ],
    ids=["not compiled", "fp32", "padded"],
)
def test_only_what_the_run_can_use_is_tried(
    monkeypatch: pytest.MonkeyPatch, on_a_gpu: Installer, setting: AttentionSetting, taken: str
) -> None:
    on_a_gpu(fastest=taken)
    tried = []
    compute = attention_choice.loss_and_gradients
    monkeypatch.setattr(
        attention_choice,
        "loss_and_gradients",
        lambda kernel, *given, **more: tried.append(kernel) or compute(kernel, *given, **more),  # type: ignore[func-returns-value]
    )
    assert choose_attention("auto", setting).kernel == taken
    wanted = {"sdpa_varlen": {"sdpa", "sdpa_varlen"}, "flex": {"sdpa", "flex"}, "sdpa": {"sdpa"}}[taken]
    assert set(tried) - {"eager"} == wanted


@pytest.mark.parametrize("configured", ["auto", "sdpa_varlen"])
def test_flash_attn_is_not_taken_where_it_is_wrong(
    monkeypatch: pytest.MonkeyPatch, on_a_gpu: Installer, flash_attn: ModuleType, configured: str
) -> None:
    on_a_gpu(packages=["flash_attn"], fastest="sdpa_varlen")
    right = flash_attn.flash_attn_varlen_func
    monkeypatch.setattr(flash_attn, "flash_attn_varlen_func", lambda *args, **more: 1.5 * right(*args, **more))
    choice = choose_attention(configured, GPU)
    assert choice.kernel == "sdpa"
    assert "sdpa_varlen gives other numbers here" in choice.reason


@pytest.mark.parametrize("fault", ["none", "wrong", "failing"])
def test_a_gpu_takes_a_fused_kernel_only_where_it_is_right(on_a_gpu: Installer, fault: str) -> None:
    on_a_gpu(packages=(), **({} if fault == "none" else {fault: ["sdpa"]}))
    choice = choose_attention("auto", replace(GPU, precision="fp32"))
    assert choice.kernel == ("sdpa" if fault == "none" else "eager")
    assert {"none": "right to", "wrong": "other numbers", "failing": "no kernel image"}[fault] in choice.reason


def test_a_kernel_that_fails_at_the_size_of_the_run_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, on_a_gpu: Installer
) -> None:
    on_a_gpu(packages=["triton"], fastest="flex")
    measure = attention_choice.seconds_of

    def failing(kernel: str, setting: AttentionSetting) -> float:
        if kernel == "flex":
            raise RuntimeError("out of shared memory")
        return measure(kernel, setting)

    monkeypatch.setattr(attention_choice, "seconds_of", failing)
    choice = choose_attention("auto", GPU)
    assert choice.kernel == "sdpa"
    assert "flex does not run here: out of shared memory" in choice.reason


def test_a_configured_kernel_that_fails_at_the_size_of_the_run_gives_way(
    monkeypatch: pytest.MonkeyPatch, on_a_gpu: Installer
) -> None:
    on_a_gpu(fastest="sdpa")
    measure = attention_choice.seconds_of
    monkeypatch.setattr(
        attention_choice, "seconds_of", lambda kernel, setting: 1 / 0 if kernel == "flex" else measure(kernel, setting)
    )
    choice = choose_attention("flex", GPU)
    assert choice.kernel == "sdpa"
    assert choice.reason.startswith("flex does not run here: division by zero; ")


def test_a_kernel_that_drops_other_weights_than_it_should_is_not_taken(on_a_gpu: Installer) -> None:
    on_a_gpu(drops_wrongly=["flex"], fastest="flex_varlen")
    choice = choose_attention("auto", GPU)
    assert choice.kernel in ("sdpa", "sdpa_varlen")
    for kernel in ("flex", "flex_varlen"):
        assert f"{kernel} gives other numbers here" in choice.reason


@pytest.mark.parametrize(("seconds", "taken"), [(0.92, "sdpa"), (0.89, "flex")])
def test_a_tenth_of_the_time_is_too_little_to_decide(
    monkeypatch: pytest.MonkeyPatch, on_a_gpu: Installer, seconds: float, taken: str
) -> None:
    on_a_gpu(packages=["triton"])
    monkeypatch.setattr(attention_choice, "seconds_of", lambda kernel, _: seconds if kernel == "flex" else 1.0)
    assert choose_attention("auto", GPU).kernel == taken


def test_a_family_that_transformers_computes_takes_no_kernel_of_ours(on_a_gpu: Installer) -> None:
    on_a_gpu()
    choice = choose_attention("flex", replace(GPU, is_padded=True))
    assert choice.kernel == "sdpa"
    assert choice.reason.startswith("flex is not for this family")


def test_products_are_tried_in_the_precision_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, forward = [], SequenceLoss.forward

    def spied(self: SequenceLoss, *given: Any) -> torch.Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return forward(self, *given)

    monkeypatch.setattr(SequenceLoss, "forward", spied)
    before = torch.get_float32_matmul_precision()
    loss_and_gradients("eager", "cpu", "tf32")
    loss_and_gradients("eager", "cpu", "fp32")
    assert seen == ["high", "highest"]
    assert torch.get_float32_matmul_precision() == before
