"""The forward pass of T5, T5 v1.1 and mT5 over concatenated texts, through the modules of `transformers`.

Every linear layer is called as a module, so adapters and quantised layers inside the network work as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from recipe_exp.models.unpadded.attention import attend, attend_with_flash, attend_with_sdpa
from recipe_exp.models.unpadded.compiling import Kernels
from recipe_exp.models.unpadded.counter_dropout import Dropout, Site
from recipe_exp.models.unpadded.flex import attend_with_flex
from recipe_exp.models.unpadded.functions import add_and_norm, dropout, embedded, gated_gelu
from recipe_exp.models.unpadded.segments import IndexArray, Segments, cross_segments, self_segments

# With a position bias, and without one: from target to source.
_KERNELS: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]] = {
    "eager": (attend, attend),
    "sdpa": (attend_with_sdpa, attend_with_sdpa),
    "sdpa_varlen": (attend_with_sdpa, attend_with_flash),
    "flex": (attend_with_flex, attend_with_flex),
    "flex_varlen": (attend_with_flex, attend_with_flash),
}
_SITES_PER_BLOCK = 8
_FIRST_DECODER_SITE = 1 << 16


@dataclass(frozen=True)
class Texts:
    """One side of a micro-batch.

    Attributes:
        ids: int64, (tokens,), concatenated.
        lengths: int64, (examples,), tokens of each text, on the host.
        keys: int32, (tokens,), of dropout.
    """

    ids: torch.Tensor
    lengths: IndexArray
    keys: torch.Tensor


def decoded_states(network: Any, sources: Texts, targets: Texts, kernels: Kernels) -> torch.Tensor:
    """Returns what the output projection reads for every target token, (target tokens, d_model).

    Args:
        network: a `T5ForConditionalGeneration` or alike, without an adapter's wrapper.
        sources: the prompts.
        targets: what the decoder reads: its start, then each label but the last.
        kernels: that compute it.
    """
    encoder, decoder = network.get_encoder(), network.get_decoder()
    device, num_heads = sources.ids.device, network.config.num_heads
    read, written = _embedded(encoder.embed_tokens, decoder.embed_tokens, sources.ids, targets.ids)
    encoded = _Pass(encoder, sources, kernels, first_site=0).run(
        read, self_segments(sources.lengths, num_heads=num_heads, is_causal=False, device=device)
    )
    across = cross_segments(targets.lengths, sources.lengths, num_heads=num_heads, device=device)
    return _Pass(decoder, targets, kernels, first_site=_FIRST_DECODER_SITE).run(
        written, self_segments(targets.lengths, num_heads=num_heads, is_causal=True, device=device), encoded, across
    )


def _embedded(
    encoder_table: Any, decoder_table: Any, source_ids: torch.Tensor, target_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what both stacks read, (tokens, d_model) each; of one table that is tuned on a CPU, with one gradient."""
    weight = encoder_table.weight
    is_one = type(encoder_table) is type(decoder_table) is nn.Embedding and weight is decoder_table.weight
    if not (is_one and weight.requires_grad and weight.dtype == torch.float32 and weight.device.type == "cpu"):
        return encoder_table(source_ids), decoder_table(target_ids)
    rows = embedded(weight, torch.cat([source_ids, target_ids]))
    read, written = torch.split(rows, [len(source_ids), len(target_ids)])
    return read, written


class _Pass:
    """One stack over one side of a micro-batch."""

    def __init__(self, stack: Any, texts: Texts, kernels: Kernels, *, first_site: int) -> None:
        self.stack = stack
        self.texts = texts
        self.kernels = kernels
        self.first_site = first_site
        probability = stack.dropout.p if stack.training else 0.0
        self.dropout = Dropout(probability, texts.keys) if probability > 0.0 else None
        self.is_checkpointed = stack.training and bool(stack.block[0].gradient_checkpointing)
        self.dtype = _compute_dtype(stack, texts.ids.device)
        self.attend_with_bias, self.attend_without = _KERNELS[stack.config._attn_implementation]

    def run(
        self,
        read: torch.Tensor,
        segments: Segments,
        encoded: torch.Tensor | None = None,
        across: Segments | None = None,
    ) -> torch.Tensor:
        """Returns the stack's output for embedded tokens, both (tokens, d_model)."""
        at_begin, before_norm, at_end = self._sites(self.first_site, 3)
        stream = dropout(read, at_begin, self.kernels)
        bias = position_bias(self.stack.block[0].layer[0].SelfAttention, segments.num_biased_places)
        if self.attend_with_bias is attend_with_flex:
            bias = bias.clone()  # It takes no view.
        update: torch.Tensor | None = None
        for index, block in enumerate(self.stack.block):
            first = self.first_site + _SITES_PER_BLOCK * (index + 1)
            arguments = (block, first, segments, bias, stream, update, encoded, across)
            if self.is_checkpointed:
                stream, update = checkpoint(self._block, *arguments, use_reentrant=False, preserve_rng_state=True)
            else:
                stream, update = self._block(*arguments)
        _, normed = add_and_norm(stream, update, self.stack.final_layer_norm, before_norm, self.dtype, self.kernels)
        return dropout(normed, at_end, self.kernels)

    def _block(
        self,
        block: Any,
        first_site: int,
        segments: Segments,
        bias: torch.Tensor,
        stream: torch.Tensor,
        update: torch.Tensor | None,
        encoded: torch.Tensor | None,
        across: Segments | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the residual stream without the block's last update, and that update before its dropout."""
        layers = list(block.layer)
        # The update of the block before comes in with that block's last dropout.
        before, attending, attended, crossing, crossed, feeding = self._sites(first_site - 1, 6)
        stream, normed = self._norm(stream, update, layers[0].layer_norm, before)
        update = self._attention(layers[0].SelfAttention, normed, normed, segments, bias, attending)
        stream, normed = self._norm(stream, update, layers[1].layer_norm, attended)
        if encoded is not None and across is not None:
            update = self._attention(layers[1].EncDecAttention, normed, encoded, across, None, crossing)
            stream, normed = self._norm(stream, update, layers[2].layer_norm, crossed)
        return stream, self._feed_forward(layers[-1].DenseReluDense, normed, feeding)

    def _norm(
        self, stream: torch.Tensor, update: torch.Tensor | None, norm: nn.Module, site: Site | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return add_and_norm(stream, update, norm, site, self.dtype, self.kernels)

    def _attention(
        self,
        layer: Any,
        asking: torch.Tensor,
        attended: torch.Tensor,
        segments: Segments,
        bias: torch.Tensor | None,
        site: Site | None,
    ) -> torch.Tensor:
        projected = (layer.q(asking), layer.k(attended), layer.v(attended))
        compute = self.attend_without if bias is None else self.attend_with_bias
        output: torch.Tensor = layer.o(compute(*projected, bias, segments, site, self.kernels))
        return output

    def _feed_forward(self, layer: Any, normed: torch.Tensor, site: Site | None) -> torch.Tensor:
        output: torch.Tensor
        if not hasattr(layer, "wi_0"):
            output = layer.wo(dropout(layer.act(layer.wi(normed)), site, self.kernels))
        elif self.stack.config.dense_act_fn == "gelu_new":
            output = layer.wo(gated_gelu(layer.wi_0(normed), layer.wi_1(normed), site, self.kernels))
        else:
            gated = layer.act(layer.wi_0(normed)) * layer.wi_1(normed)
            output = layer.wo(dropout(gated, site, self.kernels))
        return output

    def _sites(self, first: int, count: int) -> Sequence[Site | None]:
        return [None] * count if self.dropout is None else self.dropout.at(first, count)


def position_bias(attention: Any, num_places: int) -> torch.Tensor:
    """Returns T5's bias for each pair of places, (heads, places, places); it depends on their distance only.

    In a decoder it is -inf where a place does not look because it comes later, so that no kernel asks what is causal.

    Args:
        attention: the first self-attention of a stack, which holds the table.
        num_places: how many.
    """
    weight = attention.relative_attention_bias.weight
    # With one query before the first, which is left out at the end: a compiled kernel would be compiled once more for a
    # bias that starts where its memory does.
    distances = torch.arange(1 - num_places, num_places + 1, device=weight.device)
    buckets = attention._relative_position_bucket(
        distances,
        bidirectional=not attention.is_decoder,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    # Contiguous, so that kernels read the keys of a query one after the other.
    by_distance = functional.embedding(buckets, weight).T.contiguous()
    if attention.is_decoder:
        by_distance = by_distance.masked_fill(distances > 0, -math.inf)
    # Row i of the windows holds the distances 1 - num_places + i ... i, those of query num_places - 1 - i.
    return by_distance.unfold(1, num_places, 1).flip(1)[:, 1:]


def _compute_dtype(stack: nn.Module, device: torch.device) -> torch.dtype:
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    dtype: torch.dtype = stack.final_layer_norm.weight.dtype  # type: ignore[union-attr, assignment]
    return dtype
