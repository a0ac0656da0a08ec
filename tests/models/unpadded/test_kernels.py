"""Kernels compiled and as they stand, against autograd over their definition."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn import functional

from recipe_exp.data.loader import MicroBatch, join_texts
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.models.unpadded import compiling
from recipe_exp.models.unpadded.compiling import UNCOMPILED, Kernels
from recipe_exp.models.unpadded.counter_dropout import Dropout, Site
from recipe_exp.models.unpadded.functions import add_and_norm, dropout, gated_gelu

Function = Callable[..., Any]


def site_of(num_tokens: int) -> Site:
    return Dropout(0.3, torch.arange(num_tokens, dtype=torch.int32)).at(3, 1)[0]


@pytest.mark.parametrize("num_tokens", [1, 2, 33])
@pytest.mark.parametrize("has_dropout", [False, True])
def test_functions_are_their_definitions(kernels: Kernels, num_tokens: int, has_dropout: bool) -> None:
    torch.manual_seed(1)
    site = site_of(num_tokens) if has_dropout else None
    norm = torch.nn.Module()
    norm.weight, norm.variance_epsilon = torch.nn.Parameter(torch.randn(24)), 1e-6  # type: ignore[assignment]
    stream, update, gate = (torch.randn(num_tokens, 24, requires_grad=True) for _ in range(3))

    def masked(values: torch.Tensor) -> torch.Tensor:
        ones = torch.ones_like(values)
        return values if site is None else values * dropout(ones, site, UNCOMPILED)

    def normed(values: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(values, (24,), norm.weight, 1e-6)  # type: ignore[arg-type]

    added, found = add_and_norm(stream, update, norm, site, torch.float32, kernels)
    wanted = stream + masked(update)
    cases = {
        "sum": (added, wanted),
        "norm of the sum": (found, normed(wanted)),
        "norm": (add_and_norm(stream, None, norm, site, torch.float32, kernels)[1], normed(stream)),
        "gated": (
            gated_gelu(gate, update, site, kernels),
            masked(functional.gelu(gate, approximate="tanh") * update),
        ),
        "dropout": (dropout(update, site, kernels), masked(update)),
    }
    inputs = [stream, update, gate, norm.weight]
    for name, (mine, theirs) in cases.items():
        torch.testing.assert_close(mine, theirs, msg=name)
        back = torch.randn_like(theirs)
        gradients = (
            torch.autograd.grad(each, inputs, back, allow_unused=True, materialize_grads=True, retain_graph=True)
            for each in (mine, theirs)
        )
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


def test_a_compiler_that_fails_costs_one_line_and_no_number(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> Function:
        def call(*_: object) -> None:
            raise RuntimeError("no C++ compiler\nin the path")

        return call

    monkeypatch.setattr(compiling.torch, "compile", broken)
    kernels = Kernels(is_compiled=True)
    values = torch.randn(3, 8)
    with caplog.at_level(logging.WARNING):
        first = gated_gelu(values, values, None, kernels)
        second = dropout(values, site_of(3), kernels)
    assert torch.equal(first, gated_gelu(values, values, None, UNCOMPILED))
    assert torch.equal(second, dropout(values, site_of(3), UNCOMPILED))
    assert [record.getMessage() for record in caplog.records] == [
        "torch.compile does not work here (no C++ compiler in the path); the model runs uncompiled, and slower"
    ]
    assert not kernels.is_compiled


def test_a_compiler_that_fails_for_a_later_size_does_not_end_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def short_lived(function: Function, **_: object) -> Function:
        def call(values: torch.Tensor, *more: object) -> object:
            if len(values) > 3:
                raise RuntimeError("no kernel for this size")
            return function(values, *more)

        return call

    monkeypatch.setattr(compiling.torch, "compile", short_lived)
    kernels = Kernels(is_compiled=True)
    dropout(torch.randn(3, 8), site_of(3), kernels)
    assert kernels.is_compiled
    values = torch.randn(5, 8)
    with caplog.at_level(logging.WARNING):
        found = dropout(values, site_of(5), kernels)
    assert torch.equal(found, dropout(values, site_of(5), UNCOMPILED))
    assert "no kernel for this size" in caplog.text
    assert not kernels.is_compiled


def test_what_fails_uncompiled_too_is_no_fault_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Function:
        def call(*_: object) -> None:
            raise RuntimeError("not enough memory")

        return call

    monkeypatch.setattr(compiling.torch, "compile", full)
    monkeypatch.setattr(compiling.kernels, "dropped", full())
    kernels = Kernels(is_compiled=True)
    with pytest.raises(RuntimeError, match="not enough memory"):
        dropout(torch.randn(3, 8), site_of(3), kernels)
    assert kernels.is_compiled


@pytest.mark.slow
def test_nothing_is_compiled_once_the_first_step_is_over(built: Function, batch: MicroBatch, compiled: Kernels) -> None:
    loss = SequenceLoss(built(dropout=0.1), compiled)

    def num_compiled_after(batch: MicroBatch) -> int:
        loss(batch).backward()
        return int(counters["stats"]["unique_graphs"])

    first = num_compiled_after(batch)
    # Buckets of one text, of as many as there are heads, of more; as many words as there are heads.
    for num_texts, num_tokens in ((1, 9), (3, 9), (2, 3), (5, 30), (1, 70)):
        texts = [torch.full((num_tokens,), 5).numpy()] * num_texts
        assert num_compiled_after(join_texts(texts, texts[::-1], noise=(7, 11))) == first


_ASK_FOR_ONE_ROW = """
import sys
import torch
from torch._dynamo.utils import counters
from recipe_exp.models.unpadded.compiling import Kernels
from recipe_exp.models.unpadded.kernels import gathered

if sys.argv[1] == "another program":
    compiled = torch.compile(gathered, dynamic=True, fullgraph=True)
else:
    compiled = Kernels(is_compiled=True).gathered
for num_rows in (2, 1):
    compiled(torch.ones(10, 6), torch.zeros(num_rows, dtype=torch.int64))
print(counters["stats"]["unique_graphs"], counters["aot_autograd"]["autograd_cache_hit"])
"""


@pytest.mark.slow
def test_kernels_of_other_settings_are_not_read_from_a_shared_cache(tmp_path: Path) -> None:
    def graphs_and_hits(who: str) -> list[int]:
        return [
            int(number)
            for number in subprocess.run(
                [sys.executable, "-c", _ASK_FOR_ONE_ROW, who],
                env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split()
        ]

    assert graphs_and_hits("another program") == [2, 0]
    assert graphs_and_hits("recipe_exp") == [1, 0]
    assert graphs_and_hits("recipe_exp") == [1, 1]


@pytest.mark.slow
def test_what_compiling_took_is_known(compiled: Kernels) -> None:
    dropout(torch.randn(3, 8), site_of(3), compiled)
    before = compiled.compile_seconds
    assert before > 0
    dropout(torch.randn(300, 8), site_of(300), compiled)
    assert compiled.compile_seconds == before
