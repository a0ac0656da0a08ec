"""The adapter of another run as the first weights of this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from recipe_exp.config.messages import show_setting
from recipe_exp.config.training import LoraConfig
from recipe_exp.errors import CheckpointError, ModelError
from recipe_exp.models.base_weights import read_facts
from recipe_exp.models.finetuned import load_tuned_state, weights_file
from recipe_exp.training.model_folder import verify_model

_NUM_SHOWN_CHARACTERS = 12


def load_start(network: Any, lora: LoraConfig, base: str | None) -> None:
    """Gives a network the best adapter of the run that its configuration starts from.

    Args:
        network: with a fresh adapter.
        lora: names the run's folder.
        base: fingerprint of the weights under the adapter.

    Raises:
        ModelError: if the adapter was trained on other weights, or cannot be read.
        CheckpointError: if its file is damaged.
    """
    model = Path(str(lora.start_from)) / "model"
    shown = show_setting("training.adapter.start_from", str(lora.start_from))
    then = read_facts(model).fingerprint
    if then != base:
        raise ModelError(
            f"{shown}: its adapter was trained on other base weights than those of this run (fingerprint "
            f"{str(then)[:_NUM_SHOWN_CHARACTERS]} -> {str(base)[:_NUM_SHOWN_CHARACTERS]}); take the model.name, "
            "model.revision and, for random weights, the seed of then"
        )
    try:
        verify_model(model)
        state = load_file(model / weights_file(network))
    except CheckpointError as error:
        raise CheckpointError(f"{shown}: {error}; put the file back from a copy, or name another run") from None
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{shown}: its adapter cannot be read ({' '.join(str(error).split())})") from None
    load_tuned_state(network, state)
