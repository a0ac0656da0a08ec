"""The summed cross-entropy of a micro-batch: the one place where a loss is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from recipe_exp.data.loader import IGNORED_LABEL
from recipe_exp.models.chunked_cross_entropy import summed_cross_entropy
from recipe_exp.models.families import FAMILIES


class SequenceLoss(nn.Module):
    """An encoder-decoder that answers with the sum of its cross-entropy over target tokens.

    The sum, not a mean: dividing by the number of target tokens of the whole window is the caller's part, and it makes
    a step independent of how the window was cut into micro-batches. The vocabulary's logits are computed for real
    target tokens only, a chunk of them at a time, and summed in fp32.

    Args:
        network: the network, bare or with adapters injected into it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        label_smoothing: float = 0.0,
    ) -> torch.Tensor:
        """Returns the summed cross-entropy, a scalar.

        Args:
            input_ids: (batch, source_length).
            attention_mask: (batch, source_length), 1 for real tokens.
            labels: (batch, target_length), padded with -100.
            label_smoothing: share of the target distribution spread evenly over the vocabulary, as in
                https://arxiv.org/abs/1512.00567.
        """
        network = plain_network(self.network)
        encoded = network.get_encoder()(input_ids=input_ids, attention_mask=attention_mask)[0]
        # The decoder is causal and padding stands at the end, so it needs no mask of its own.
        decoded = network.get_decoder()(
            input_ids=shifted_right(labels, network.config.model_type),
            encoder_hidden_states=encoded,
            encoder_attention_mask=attention_mask,
            use_cache=False,
        )[0]
        is_target = labels != IGNORED_LABEL
        hidden = decoded[is_target]
        # Only T5 scales, and only its configuration speaks of it.
        if getattr(network.config, "scale_decoder_outputs", False):
            hidden = hidden * network.config.d_model**-0.5
        return summed_cross_entropy(hidden, network.lm_head, labels[is_target], label_smoothing=label_smoothing)


def shifted_right(labels: torch.Tensor, model_type: str) -> torch.Tensor:
    """Returns what the decoder reads to write the labels: its family's start, then each label but the last.

    Args:
        labels: (batch, target_length), padded with -100.
        model_type: the family's.
    """
    family = FAMILIES[model_type]
    start = labels.new_full((len(labels), 1), family.start_id)
    return torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED_LABEL, family.pad_id)], dim=1)


def plain_network(network: Any) -> PreTrainedModel:
    """Returns the network inside an adapter's wrapper, or the network itself."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network
