"""A frozen base in 4 bits: what transformers is asked for, and what it leaves as it is.

transformers quantises the linear layers as it reads them, through bitsandbytes, but neither the output projection nor
`wo`, whose input T5 casts to the type of its weight. Embeddings, norms and position biases are no linear layers.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from recipe_exp.errors import ModelError

Quantization = Literal["none", "nf4"]


def is_available() -> bool:
    """Returns whether bitsandbytes is installed; it is not loaded."""
    return find_spec("bitsandbytes") is not None


def loading_settings(quantization: Quantization, *, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Returns what `from_pretrained` is told beside the rest.

    Args:
        quantization: `none` tells it nothing.
        dtype: of what is not quantised, and of the products with what is.
        device: `cpu` or `cuda`; quantised weights are made where they are used.

    Raises:
        ModelError: if bitsandbytes is not installed.
    """
    if quantization == "none":
        return {}
    if not is_available():
        raise ModelError(
            f"training.adapter.quantization={quantization}: bitsandbytes is not installed; pip install "
            "'recipe-exp[quantized]', or set it to none"
        )
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": settings, "device_map": {"": 0 if device == "cuda" else device}}


def keep_layout(network: nn.Module) -> None:
    """Keeps quantised matrices as they are for good.

    On a CPU with bfloat16 the library lays them out anew when they are first used without gradients, for a kernel that
    rounds to bfloat16 and has no backward pass: no evaluation could be followed by training.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010


def quantization_of(network: Any) -> Quantization:
    """Returns how a network's matrices are held."""
    return "nf4" if getattr(network, "is_loaded_in_4bit", False) else "none"
