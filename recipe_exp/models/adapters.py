"""LoRA through peft: injecting, saving, loading and merging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import T5ForConditionalGeneration

from recipe_exp.config.training import LoraConfig
from recipe_exp.errors import ModelError
from recipe_exp.models.base_weights import refuse_other_base
from recipe_exp.models.load import load_pretrained, quiet_transformers
from recipe_exp.models.stored_files import check_adapter_folder

TARGET_MODULES = {
    "attention_qv": ("q", "v"),
    "attention": ("q", "k", "v", "o"),
    "all_linear": ("q", "k", "v", "o", "wi_0", "wi_1", "wo"),
}
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


def add_lora(network: T5ForConditionalGeneration, lora: LoraConfig, *, base: str, revision: str | None = None) -> Any:
    """Returns the network with trainable low-rank updates in fp32 and everything else frozen.

    Args:
        network: the base; it is changed in place.
        lora: rank, scale, dropout and which layers.
        base: name or folder of the base, written into the adapter's configuration.
        revision: of the base on the hub, written there too.
    """
    network.config.name_or_path = base
    network.name_or_path = base
    adapter = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(TARGET_MODULES[lora.targets]),
        task_type="SEQ_2_SEQ_LM",
        base_model_name_or_path=base,
        revision=revision,
    )
    if network.is_activation_checkpointing:
        # Frozen embeddings give activations without gradient, which checkpointing would not recompute.
        network.enable_input_require_grads()
    with quiet_transformers():
        return get_peft_model(network, adapter, autocast_adapter_dtype=True)


def is_adapter(network: nn.Module) -> bool:
    """Returns whether the network carries an adapter."""
    return isinstance(network, PeftModel)


def adapter_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Returns the adapter's weights alone, by the names that peft reads."""
    return {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(network).items()}


def load_adapter_state(network: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Puts an adapter's weights back.

    Raises:
        ModelError: if names or shapes are another adapter's.
    """
    expected = adapter_state(network)
    wrong = {*expected} ^ {*state} | {
        name for name in {*expected} & {*state} if expected[name].shape != state[name].shape
    }
    if wrong:
        raise ModelError(f"{len(wrong)} adapter weights do not fit this model, such as {sorted(wrong)[0]}")
    set_peft_model_state_dict(network, state)


def save_adapter(network: Any, folder: Path) -> None:
    """Writes adapter_config.json and adapter_model.safetensors as peft reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_adapter_config(network, folder)
    save_file(adapter_state(network), folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def write_adapter_config(network: Any, folder: Path) -> None:
    """Writes adapter_config.json alone."""
    adapter = network.peft_config["default"]
    adapter.inference_mode = True
    adapter.save_pretrained(folder)
    adapter.inference_mode = False


def load_with_adapter(folder: Path, *, dtype: torch.dtype, attention: str = "eager") -> Any:
    """Returns the base model that the adapter in `folder` names, with the adapter on it.

    Raises:
        ModelError: if the base cannot be found or is another than the adapter was trained on, or the adapter is damaged
            or no LoRA.
    """
    check_adapter_folder(folder)
    try:
        with quiet_transformers():
            adapter = PeftLoraConfig.from_pretrained(folder)
        state = load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{folder}: holds no LoRA adapter that can be read ({reason})") from None
    base = _base_of(str(adapter.base_model_name_or_path), folder)
    refuse_other_base(folder, base, adapter.revision)
    network = load_pretrained(base, adapter.revision, dtype=dtype, attention=attention)
    adapter.base_model_name_or_path = base
    with quiet_transformers():
        wrapped = get_peft_model(network, adapter)
    load_adapter_state(wrapped, state)
    return wrapped


def merge_adapter(network: Any) -> T5ForConditionalGeneration:
    """Returns the plain network with the adapter's update added to its weights (W + alpha / rank * B A)."""
    with quiet_transformers():
        return network.merge_and_unload(safe_merge=True)


def _base_of(name: str, folder: Path) -> str:
    """A base saved in the run folder is found again where the run lies now, from `model/` and from a checkpoint.

    peft needs an absolute path, since it reads a relative one from wherever it is called; that of a copied or moved run
    folder still names the place before.
    """
    if not Path(name).is_absolute():
        return name
    beside = (parent / Path(name).name for parent in folder.absolute().parents[:2])
    return next((str(path) for path in beside if path.is_dir()), name)
