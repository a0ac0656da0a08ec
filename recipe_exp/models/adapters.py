"""LoRA and its variants through peft: injecting, saving, loading and merging."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.integrations import dequantize_module_weight
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from recipe_exp.config.lora_targets import NEVER_ADAPTED, is_target, mistake_of_targets, target_names
from recipe_exp.config.training import LoraConfig
from recipe_exp.errors import ModelError
from recipe_exp.models import pissa, quantized
from recipe_exp.models.base_weights import BASE_FOLDER, BaseFacts, read_facts, refuse_other_base
from recipe_exp.models.load import load_pretrained, quiet_transformers
from recipe_exp.models.stored_files import check_adapter_folder

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


def add_lora(network: PreTrainedModel, lora: LoraConfig, *, base: str, revision: str | None = None) -> Any:
    """Returns the network with trainable low-rank updates in fp32 and everything else frozen.

    Args:
        network: the base; it is changed in place.
        lora: rank, scale, dropout, variant and which layers.
        base: name or folder of the base, written into the adapter's configuration.
        revision: of the base on the hub, written there too.

    Raises:
        ModelError: if a target means no linear layer of the network.
    """
    network.config.name_or_path = base
    network.name_or_path = base
    adapter = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_targets_in(network, lora),
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        task_type="SEQ_2_SEQ_LM",
        base_model_name_or_path=base,
        revision=revision,
    )
    if network.is_activation_checkpointing:
        # Frozen embeddings give activations without gradient, which checkpointing would not recompute.
        network.enable_input_require_grads()
    wrapped = _wrap(network, adapter)
    if lora.init == "pissa":
        _take_out(wrapped, pissa.principal_start(_layers(wrapped), lora.rank, lora.scale))
    _start_magnitudes(wrapped)
    return wrapped


def is_adapter(network: nn.Module) -> bool:
    """Returns whether the network carries an adapter."""
    return isinstance(network, PeftModel)


def adapter_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Returns the adapter's weights alone, by the names that peft reads, as it loads them onto the original base."""
    state = get_peft_model_state_dict(network)
    start = _pissa_start(network)
    portable = pissa.to_portable(state, start) if start is not None else state
    return {name: tensor.contiguous() for name, tensor in portable.items()}


def load_adapter_state(network: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Puts an adapter's weights back, and the base that they are laid on as it was.

    Raises:
        ModelError: if names or shapes are another adapter's.
    """
    expected = adapter_state(network)
    wrong = {*expected} ^ {*state} | {
        name for name in {*expected} & {*state} if expected[name].shape != state[name].shape
    }
    if wrong:
        raise ModelError(f"{len(wrong)} adapter weights do not fit this model, such as {sorted(wrong)[0]}")
    present = _pissa_start(network)
    if present is not None:
        state, wanted = pissa.from_portable(state)
        pissa.replace_start(_layers(network), present, wanted, _scale(network), lambda: _original_base(network))
    set_peft_model_state_dict(network, state)


def save_adapter(network: Any, folder: Path) -> None:
    """Writes adapter_config.json and adapter_model.safetensors as peft reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_adapter_config(network, folder)
    save_file(adapter_state(network), folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def write_adapter_config(network: Any, folder: Path) -> None:
    """Writes adapter_config.json alone: that of what `adapter_state` returns."""
    adapter = copy.copy(network.peft_config["default"])
    adapter.inference_mode = True
    if _pissa_start(network) is not None:
        adapter.r, adapter.lora_alpha, adapter.use_rslora = 2 * adapter.r, 2 * adapter.r * _scale(network), False
    adapter.save_pretrained(folder)


def facts_of(network: Any, fingerprint: str | None) -> BaseFacts:
    """Returns what an adapter's configuration does not tell of the base that it was trained on.

    Args:
        network: with an adapter.
        fingerprint: of the base's weights.
    """
    quantization = quantized.quantization_of(network.get_base_model())
    return BaseFacts(fingerprint, quantization, "lora" if _pissa_start(network) is None else "pissa")


def load_with_adapter(
    folder: Path, *, dtype: torch.dtype, attention: str = "eager", as_trained: bool = False, device: str = "cpu"
) -> Any:
    """Returns the base model that the adapter in `folder` names, with the adapter on it.

    Args:
        folder: of the adapter.
        dtype: of the base.
        attention: a kernel of `model.attention`.
        as_trained: whether a base that was quantised in training is quantised again, where bitsandbytes is installed.
        device: `cpu` or `cuda`, where a quantised base is made.

    Raises:
        ModelError: if the base cannot be found or is another than the adapter was trained on, or the adapter is damaged
            or no LoRA.
    """
    check_adapter_folder(folder)
    facts = read_facts(folder)
    try:
        with quiet_transformers():
            adapter = PeftLoraConfig.from_pretrained(folder)
        state = load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{folder}: holds no LoRA adapter that can be read ({reason})") from None
    base = _base_of(str(adapter.base_model_name_or_path), folder)
    refuse_other_base(folder, base, adapter.revision)
    quantization = facts.quantization if as_trained and quantized.is_available() else "none"
    network = load_pretrained(
        base, adapter.revision, dtype=dtype, attention=attention, quantization=quantization, device=device
    )
    adapter.base_model_name_or_path = base
    if facts.init == "pissa":
        adapter.r, adapter.lora_alpha = adapter.r // 2, adapter.lora_alpha / 2
    wrapped = _wrap(network, adapter)
    if facts.init == "pissa":
        _take_out(wrapped, pissa.from_portable(state)[1])
    load_adapter_state(wrapped, state)
    return wrapped


def merge_adapter(network: Any) -> PreTrainedModel:
    """Returns the plain network with the adapter's update added to its weights (W + alpha / rank * B A)."""
    with quiet_transformers():
        return network.merge_and_unload(safe_merge=True)


def _wrap(network: PreTrainedModel, adapter: PeftLoraConfig) -> Any:
    with quiet_transformers():
        return get_peft_model(network, adapter, autocast_adapter_dtype=True)


def _take_out(wrapped: Any, start: pissa.PissaStart) -> None:
    layers = _layers(wrapped)
    shapes = {
        name: (layer.lora_A["default"].weight.shape, layer.lora_B["default"].weight.shape)
        for name, layer in layers.items()
    }
    if shapes != {name: (first.shape, second.shape) for name, (first, second) in start.factors.items()}:
        raise ModelError(
            "the adapter's weights do not fit this model, or are not of twice the rank that it started with"
        )
    pissa.take_out(layers, start, _scale(wrapped))
    wrapped.pissa_start = start


def _targets_in(network: nn.Module, lora: LoraConfig) -> list[str]:
    """Returns those of the targets' names that the network's linear layers have."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    mistake = mistake_of_targets(linear, lora.targets, str(network.name_or_path))
    if mistake is not None:
        raise ModelError(mistake)
    inside = [name for name in linear if not is_target(name, NEVER_ADAPTED)]
    return [name for name in target_names(lora.targets) if any(is_target(module, (name,)) for module in inside)]


def _layers(network: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}


def _scale(network: nn.Module) -> float:
    return float(next(iter(_layers(network).values())).scaling["default"])


def _pissa_start(network: nn.Module) -> pissa.PissaStart | None:
    return getattr(network, "pissa_start", None)


def _original_base(network: Any) -> nn.Module:
    adapter, base = network.peft_config["default"], network.get_base_model()
    original: nn.Module = load_pretrained(str(adapter.base_model_name_or_path), adapter.revision, dtype=base.dtype)
    return original


def _start_magnitudes(wrapped: Any) -> None:
    """DoRA starts at each row's length; peft takes that in the base's type, and before PiSSA."""
    for layer in _layers(wrapped).values() if wrapped.peft_config["default"].use_dora else ():
        lora_a, lora_b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        with torch.no_grad():
            weight = dequantize_module_weight(layer.get_base_layer()).float()
            directed = weight + layer.scaling["default"] * (lora_b @ lora_a)
            layer.lora_magnitude_vector["default"].weight.copy_(directed.norm(dim=1))


def _base_of(name: str, folder: Path) -> str:
    """A base saved in the run folder is found again where the run lies now, from `model/` and from a checkpoint.

    peft needs an absolute path, since it reads a relative one from wherever it is called; that of a copied or moved run
    folder still names the place before.
    """
    if not Path(name).is_absolute() or Path(name).name != BASE_FOLDER:
        return name
    beside = (parent / BASE_FOLDER for parent in folder.absolute().parents[:2])
    return next((str(path) for path in beside if path.is_dir()), name)
