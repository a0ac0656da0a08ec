from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from recipe_exp.config.compose import compose
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.hardware.limits import Limits
from recipe_exp.models.attention_choice import loss_and_gradients
from recipe_exp.planning.device import Gpu, planned_device
from recipe_exp.planning.plan import Plan
from recipe_exp.tasks.doctor import device
from recipe_exp.tasks.plan import plan_run

CARD = Gpu("Some GPU", 32 * 1024**3, 32 * 1024**3, 12.0, "580.65")
GIB = 1024**3


def plan_of(*overrides: str) -> Plan:
    config = compose(list(overrides))
    return plan_run(config, planned_device(config.hardware))


@pytest.mark.parametrize(
    ("capability", "architectures", "status"),
    [
        ((12, 0), ["sm_90", "sm_120"], "ok"),
        ((8, 9), ["sm_80", "sm_90"], "ok"),
        ((9, 0), ["sm_80", "sm_90a"], "ok"),
        ((12, 0), ["sm_80", "sm_90"], "fail"),
        ((8, 0), ["sm_86"], "fail"),
        ((12, 0), ["sm_90", "compute_90"], "warn"),
    ],
)
def test_architectures_that_pytorch_was_built_for(
    capability: tuple[int, int], architectures: list[str], status: str
) -> None:
    assert device.check_architecture(capability, architectures).status == status


@pytest.mark.parametrize(
    ("capability", "precision", "status"),
    [
        ((8, 0), "auto", "ok"),
        ((12, 0), "bf16", "ok"),
        ((7, 5), "bf16", "fail"),
        ((7, 5), "auto", "warn"),
        ((7, 5), "fp32", "ok"),
    ],
)
def test_bf16_is_asked_of_cards_that_have_it(capability: tuple[int, int], precision: str, status: str) -> None:
    finding = device.check_bf16(capability, precision)
    assert (finding.status, "training.precision=fp32" in finding.fix) == (status, status != "ok")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the card is told of, where PyTorch sees none")
def test_a_gpu_that_pytorch_does_not_see_is_a_failure() -> None:
    findings = {f.subject: f for f in device.check_gpu(HardwareConfig(device="cuda"), "auto", [CARD])}
    assert findings["torch"].status == "fail"
    assert "Some GPU" in findings["torch"].text
    assert findings["gpu"].status == "fail"
    alone = {f.subject: f for f in device.check_gpu(HardwareConfig(), "auto", [])}
    assert {f.status for f in alone.values()} == {"ok"}


def test_a_smaller_card_than_configured_is_a_failure() -> None:
    hardware = HardwareConfig(device="cuda", memory_gb=80)
    assert device._check_card(hardware, "Some GPU", 24 * GIB).status == "fail"
    assert device._check_card(HardwareConfig(memory_gb=32), "Some GPU", 32607 * 1024**2).status == "ok"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kernels_that_compute_t5_right_are_found_right(precision: str) -> None:
    eager, sdpa = device.check_attention(compose(["model.attention=sdpa", "hardware.device=cpu"]), precision)
    assert (eager.subject, eager.status, sdpa.subject, sdpa.status) == ("attention eager", "ok", "attention sdpa", "ok")
    assert sdpa.text.endswith(f"in {precision}; this run takes it")


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_a_kernel_that_forgets_the_bias_is_found(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    from recipe_exp.models.unpadded import t5

    right = loss_and_gradients("eager", "cpu", "fp32")
    compute = t5.position_bias
    monkeypatch.setattr(t5, "position_bias", lambda *arguments: 0.9 * compute(*arguments))
    wrong = lambda: loss_and_gradients(kernel, "cpu", "fp32")  # noqa: E731
    used = device.judge_attention(kernel, kernel, "fp32", wrong, right)
    assert used.status == "fail"
    assert used.fix == f"add model.attention={'sdpa' if kernel == 'eager' else 'eager'}"
    assert device.judge_attention(kernel, "another", "fp32", wrong, right).status == "warn"


@pytest.mark.parametrize("compute", [lambda: 1 / 0, lambda: torch.tensor([float("nan")])], ids=["raises", "nan"])
def test_a_kernel_that_does_not_run_is_found(compute: Callable[[], torch.Tensor]) -> None:
    finding = device.judge_attention("sdpa", "sdpa", "fp32", compute, torch.ones(1))
    assert (finding.status, finding.fix) == ("fail", "add model.attention=eager")


def test_memory_that_is_short_names_the_change() -> None:
    assert device.check_memory(plan_of("model=flan_t5_base", "training=full", "hardware=rtx5090")).status == "ok"
    card = ("hardware=rtx5090", "hardware.memory_gb=27")
    short = plan_of("model=flan_t5_xxl", "training=lora", *card, "model.gradient_checkpointing=false")
    finding = device.check_memory(short)
    assert (finding.status, finding.fix) == ("fail", "add model.gradient_checkpointing=true")


def test_a_quota_of_cpus_is_compared_with_threads() -> None:
    plan = plan_of("hardware=cpu")
    (found,) = device.check_limits(Limits(2.5, None), plan, HardwareConfig(), num_cores=64)
    assert (found.status, found.fix[:26]) == ("warn", "add hardware.num_threads=2")
    (found,) = device.check_limits(Limits(2.5, None), plan, HardwareConfig(num_threads=2), num_cores=64)
    assert found.status == "ok"
    (found,) = device.check_limits(Limits(0.5, None), plan, HardwareConfig(num_threads=1), num_cores=64)
    assert found.status == "ok"


def test_a_limit_of_memory_is_compared_with_the_plan() -> None:
    plan = plan_of("hardware=cpu", "hardware.memory_gb=64", "model=flan_t5_base", "training=full")
    (found,) = device.check_limits(Limits(None, 4 * GIB), plan, HardwareConfig(), num_cores=2)
    assert found.status == "fail"
    (found,) = device.check_limits(Limits(None, plan.peak_bytes + 4 * GIB), plan, HardwareConfig(), num_cores=2)
    assert found.status == "ok"
    on_gpu = plan_of("hardware=rtx5090", "model=flan_t5_xl", "training=lora")
    (found,) = device.check_limits(Limits(None, 8 * GIB), on_gpu, HardwareConfig(), num_cores=2)
    assert found.status == "fail", "the weights pass through the memory of the host"


def test_no_limit_is_said() -> None:
    (found,) = device.check_limits(Limits(None, None), plan_of("hardware=cpu"), HardwareConfig(), num_cores=3)
    assert (found.status, found.text) == ("ok", "no limit of CPUs or memory; 3 cores")
