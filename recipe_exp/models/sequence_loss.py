"""The summed cross-entropy of a micro-batch: the one place where a loss is computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from recipe_exp.data.loader import IGNORED_LABEL, MicroBatch, moved
from recipe_exp.data.plan import IndexArray
from recipe_exp.models.chunked_cross_entropy import summed_cross_entropy
from recipe_exp.models.families import FAMILIES
from recipe_exp.models.unpadded.compiling import UNCOMPILED, Kernels
from recipe_exp.models.unpadded.t5 import Texts, decoded_states


class SequenceLoss(nn.Module):
    """An encoder-decoder that answers with the sum of its cross-entropy over target tokens.

    The sum, not a mean: dividing by the number of target tokens of the whole window is the caller's part, and it makes
    a step independent of how the window was cut into micro-batches. No layer computes padding, in families whose
    forward pass over concatenated texts is known here. The vocabulary's logits are computed a chunk of target tokens
    at a time, and summed in fp32.

    Args:
        network: the network, bare or with adapters injected into it.
        kernels: the elementwise arithmetic, compiled or not.
    """

    def __init__(self, network: nn.Module, kernels: Kernels = UNCOMPILED) -> None:
        super().__init__()
        self.network = network
        self.kernels = kernels

    @property
    def is_padded(self) -> bool:
        """Whether the network computes padding."""
        return not FAMILIES[plain_network(self.network).config.model_type].is_unpadded

    def forward(self, batch: MicroBatch, label_smoothing: float = 0.0, *, by_example: bool = False) -> torch.Tensor:
        """Returns the summed cross-entropy, a scalar; of each example alone (batch,) if `by_example`.

        Args:
            batch: on the network's device.
            label_smoothing: share of the target distribution spread evenly over the vocabulary, as in
                https://arxiv.org/abs/1512.00567.
            by_example: whether every example has a sum of its own.
        """
        network = plain_network(self.network)
        if self.is_padded:
            hidden = _padded_states(network, batch)
        else:
            inputs = shifted_right(batch.target_ids, batch.target_lengths, network.config.model_type)
            hidden = decoded_states(
                network,
                Texts(batch.source_ids, batch.source_lengths, batch.source_keys),
                Texts(inputs, batch.target_lengths, batch.target_keys),
                self.kernels,
            )
        # Only T5 scales, and only its configuration speaks of it.
        if getattr(network.config, "scale_decoder_outputs", False):
            hidden = hidden * network.config.d_model**-0.5
        lengths = batch.target_lengths.tolist() if by_example else [len(hidden)]
        sums = [
            summed_cross_entropy(states, network.lm_head, ids, label_smoothing=label_smoothing, kernels=self.kernels)
            for states, ids in zip(torch.split(hidden, lengths), torch.split(batch.target_ids, lengths), strict=True)
        ]
        return torch.stack(sums) if by_example else sums[0]


def _padded_states(network: Any, batch: MicroBatch) -> torch.Tensor:
    """Returns what the output projection reads for every target token, through the network's own forward pass."""
    family = FAMILIES[network.config.model_type]
    input_ids, attention_mask, labels = batch.padded(family.pad_id)
    encoded = network.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)[0]
    start = labels.new_full((len(labels), 1), family.start_id)
    shifted = torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED_LABEL, family.pad_id)], dim=1)
    # The decoder is causal and padding stands at the end, so it needs no mask of its own.
    decoded: torch.Tensor = network.get_decoder()(
        input_ids=shifted, encoder_hidden_states=encoded, encoder_attention_mask=attention_mask, use_cache=False
    )[0]
    return decoded[labels != IGNORED_LABEL]


def shifted_right(target_ids: torch.Tensor, target_lengths: IndexArray, model_type: str) -> torch.Tensor:
    """Returns what the decoder reads to write the labels: its family's start, then each label but the last.

    Args:
        target_ids: int64, (tokens,), concatenated.
        target_lengths: int64, (batch,), tokens of each target, on the host.
        model_type: the family's.
    """
    starts = moved(torch.from_numpy(np.cumsum(target_lengths) - target_lengths), target_ids.device)
    return target_ids.roll(1).index_fill_(0, starts, FAMILIES[model_type].start_id)


def plain_network(network: Any) -> PreTrainedModel:
    """Returns the network inside an adapter's wrapper, or the network itself."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network
