"""Networks small enough to be built anew by every test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from torch.nn import functional
from transformers import T5ForConditionalGeneration

from recipe_exp.config.model import ModelShape
from recipe_exp.models import load

torch.set_num_threads(1)


@pytest.fixture
def shape() -> ModelShape:
    return ModelShape(vocab_size=60, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_decoder_layers=1, num_heads=3)


@pytest.fixture
def network(shape: ModelShape) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    return load.from_shape(shape, dtype=torch.float32)


def flash_attn_varlen_func(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    deterministic: bool,
) -> torch.Tensor:
    """The attention of flash-attn, which needs a GPU, written out as it is documented."""
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert int(cu_seqlens_q.diff().max()) == max_seqlen_q
    assert int(cu_seqlens_k.diff().max()) == max_seqlen_k
    assert deterministic
    parts = []
    bounds = (pairwise(cu_seqlens_q.tolist()), pairwise(cu_seqlens_k.tolist()))
    for (begin, end), (key_begin, key_end) in zip(*bounds, strict=True):
        query, key, value = (
            part.transpose(0, 1) for part in (q[begin:end], k[key_begin:key_end], v[key_begin:key_end])
        )
        scores = query @ key.transpose(1, 2) * softmax_scale
        if causal:
            scores = scores.masked_fill(torch.ones(scores.shape[1:]).triu(1).bool(), -torch.inf)
        weights = functional.dropout(scores.softmax(-1), dropout_p)
        parts.append((weights @ value).transpose(0, 1))
    return torch.cat(parts)


@pytest.fixture(scope="module")
def flash_attn() -> Iterator[ModuleType]:
    """Stands in for the package."""
    module = ModuleType("flash_attn")
    module.__dict__["flash_attn_varlen_func"] = flash_attn_varlen_func
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "flash_attn", module)
        yield module
