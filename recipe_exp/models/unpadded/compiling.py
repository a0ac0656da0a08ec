"""Kernels as they stand or fused by `torch.compile`, decided once for a process and said in one line."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch.fx.experimental import _config as symbolic_shapes

from recipe_exp.models.unpadded import kernels

_LOGGER = logging.getLogger(__name__)
_MAX_VARIANTS = 64
_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_CACHE_TAG = " recipe_exp: every size is a symbol"
_NAMES = (
    "dropped",
    "normed",
    "added_and_normed",
    "normed_backward",
    "gated_gelu",
    "gated_gelu_backward",
    "gathered",
    "attention_row_keys",
    "attention_weights",
    "attention_backward",
    "joined",
    "spread",
    "softmax_",
)


class Kernels:
    """The functions of `kernels`, each compiled at its first use if they are to be.

    A compiler that is missing or fails costs one line in the log and speed, never the run.

    Args:
        is_compiled: whether `torch.compile` fuses them.
    """

    def __init__(self, *, is_compiled: bool) -> None:
        self.is_compiled = is_compiled
        self.compile_seconds = 0.0
        """Seconds that first calls took, compilation and reading of its cache included."""
        if is_compiled:
            prepare_compiler()
        for name in _NAMES:
            setattr(self, name, self._lazily(getattr(kernels, name)) if is_compiled else getattr(kernels, name))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise AttributeError(f"no kernel is called {name}")

    def _lazily(self, function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = torch.compile(function, dynamic=True, fullgraph=True)
        is_first = True
        is_in_place = function.__name__.endswith("_")

        @wraps(function)
        def call(*arguments: Any) -> Any:
            nonlocal is_first
            if is_in_place and not is_first:
                return compiled(*arguments)
            started = time.perf_counter()
            # What fails half-way has written over its arguments.
            spare = [_copy(argument) for argument in arguments] if is_in_place else arguments
            try:
                result = compiled(*arguments)
            except Exception as error:
                for argument, copy in zip(arguments, spare, strict=True):
                    if argument is not copy:
                        argument.copy_(copy)
                # What fails uncompiled too, as for lack of memory, is no fault of the compiler.
                result = function(*arguments)
                self._give_up(error)
                return result
            if is_first:
                is_first = False
                self.compile_seconds += time.perf_counter() - started
            return result

        return call

    def _give_up(self, error: Exception) -> None:
        self.is_compiled = False
        for name in _NAMES:
            setattr(self, name, getattr(kernels, name))
        reason = " ".join(str(error).split())[:160]
        _LOGGER.warning("torch.compile does not work here (%s); the model runs uncompiled, and slower", reason)


def _copy(argument: Any) -> Any:
    return argument.clone() if isinstance(argument, torch.Tensor) else argument


UNCOMPILED = Kernels(is_compiled=False)


def prepare_compiler() -> None:
    """Sets PyTorch's compiler up for functions of any sizes; call it before anything is compiled."""
    # In this process: a pool of compilers would outlive a run that is killed.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    # PyTorch gives up after eight; types, dropout or none, and what needs a gradient make more of some kernels.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MAX_VARIANTS)
    # Every number would otherwise be made a tensor of at each call.
    torch._dynamo.config.specialize_float = True
    # A bucket of one text, or of as many texts as there are heads, would each be compiled for once more, in the
    # middle of the run: PyTorch takes sizes of 1 and sizes that happen to be equal for constants.
    symbolic_shapes.backed_size_oblivious = True
    symbolic_shapes.use_duck_shape = False
    # A cache that other programs fill too would otherwise return kernels for sizes of two and more: PyTorch's key does
    # not tell these settings.
    torch.compiler.config.cache_key_tag = os.environ.get("TORCH_COMPILE_CACHE_KEY_TAG", "") + _CACHE_TAG


def use_compile_cache(folder: Path) -> None:
    """Keeps what is compiled in a folder, so that later runs and the trials of a sweep read it there.

    Call it before anything is compiled. An environment variable of one's own wins.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # Libraries that only look at the compiler make PyTorch write its default there.
    if os.environ.get(_CACHE_VARIABLE, default_cache_dir()) == default_cache_dir():
        os.environ[_CACHE_VARIABLE] = str(folder)
