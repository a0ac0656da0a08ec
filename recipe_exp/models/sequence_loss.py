"""The summed cross-entropy of a micro-batch: the one place where a loss is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import T5ForConditionalGeneration

from recipe_exp.data.loader import IGNORED_LABEL
from recipe_exp.models.chunked_cross_entropy import summed_cross_entropy


class SequenceLoss(nn.Module):
    """A T5 network that answers with the sum of its cross-entropy over target tokens.

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
        t5 = t5_of(self.network)
        encoded = t5.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        # The decoder is causal and padding stands at the end, so it needs no mask of its own.
        decoded = t5.decoder(
            input_ids=t5._shift_right(labels),
            encoder_hidden_states=encoded,
            encoder_attention_mask=attention_mask,
            use_cache=False,
        )[0]
        is_target = labels != IGNORED_LABEL
        hidden = decoded[is_target]
        # mT5 scales nothing, and its configuration does not speak of it.
        if getattr(t5.config, "scale_decoder_outputs", False):
            hidden = hidden * t5.model_dim**-0.5
        return summed_cross_entropy(hidden, t5.lm_head, labels[is_target], label_smoothing=label_smoothing)


def t5_of(network: Any) -> T5ForConditionalGeneration:
    """Returns the T5 inside an adapter's wrapper, or the network itself."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network
