"""What an adapter's layers keep for the backward pass, whatever computes the network around them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from recipe_exp.config.model import ModelConfig
from recipe_exp.config.training import LoraConfig
from recipe_exp.planning.parameters import adapted_layers


class AdapterActivations:
    """Bytes a token of the linear layers that an adapter sits on.

    Args:
        model: dimensions.
        lora: the adapter.
        compute_bytes: of a value in matrix products.
        device: `cpu` or `cuda`, which keeps a mask of dropout in one byte.
    """

    def __init__(self, model: ModelConfig, lora: LoraConfig, *, compute_bytes: int, device: str) -> None:
        shape = model.shape
        self._lora, self._compute_bytes = lora, compute_bytes
        self._shares = adapted_shares(model, lora)
        self._widths = {"o": shape.d_model, "wo": shape.d_model, "wi_0": shape.d_ff, "wi_1": shape.d_ff}
        self._inner = shape.num_heads * shape.d_kv
        # The adapter's dropout works on fp32 values, whatever the base computes in.
        self._mask_bytes = 0 if lora.dropout == 0.0 else 1 if device == "cuda" else 4

    def inputs(self, layer: str, names: Sequence[str], width: int, *, are_copied: bool) -> float:
        """Returns the bytes for what layers that read the same values keep of them, dropped and multiplied by A.

        Args:
            layer: such as `decoder.EncDecAttention`.
            names: of its linear layers, such as `q`.
            width: of their input.
            are_copied: whether each adapted layer keeps a copy of its own.
        """
        num_adapted = sum(self._shares[f"{layer}.{name}"] for name in names)
        num_copies = num_adapted if are_copied else min(num_adapted, 1.0)
        projected = num_adapted * self._lora.rank * self._compute_bytes
        return width * (num_copies * self._compute_bytes + num_adapted * self._mask_bytes) + projected

    def share(self, layer: str) -> float:
        """Returns the share of a stack's blocks in which a layer such as `decoder.EncDecAttention.o` is adapted."""
        return self._shares[layer]

    def scaled_outputs(self, layer: str, names: Sequence[str]) -> float:
        """Returns the bytes that DoRA keeps: what base and adapter gave, for the gradient of the magnitudes."""
        if not self._lora.dora:
            return 0.0
        outputs = sum(self._shares[f"{layer}.{name}"] * self._widths.get(name, self._inner) for name in names)
        return 2 * self._compute_bytes * outputs


def adapted_shares(model: ModelConfig, lora: LoraConfig) -> defaultdict[str, float]:
    """Returns the share of a stack's blocks in which a layer such as `decoder.EncDecAttention.q` is adapted."""
    shares: defaultdict[str, float] = defaultdict(float)
    blocks = {"encoder": model.shape.num_layers, "decoder": model.shape.num_decoder_layers}
    for (layer, _), count in adapted_layers(model.shape, lora.targets).items():
        shares[layer] = count / blocks[layer.partition(".")[0]]
    return shares
