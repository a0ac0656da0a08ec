"""The weights that training changes: collecting, restoring and exporting them, full or adapter."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from recipe_exp.config.model import ModelConfig
from recipe_exp.config.training import LoraConfig, TrainingConfig
from recipe_exp.errors import ModelError
from recipe_exp.files import flush_to_disk, reason_of
from recipe_exp.models import load
from recipe_exp.models.base_weights import BaseFacts, write_facts
from recipe_exp.models.download import find_commit
from recipe_exp.models.sequence_loss import plain_network

FULL_WEIGHTS = "model.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def build_trainable(
    model: ModelConfig,
    training: TrainingConfig,
    *,
    precision: str,
    attention: str,
    base_folder: Path,
    device: str = "cpu",
) -> Any:
    """Returns the network that training changes, on the CPU, with its adapter if one is configured.

    Weights that are tuned are in `training.weights_dtype` whatever the precision of the computation; a base that stays
    frozen is held in bf16 when the computation is.

    Args:
        model: the network.
        training: whether it is tuned whole or through an adapter.
        precision: resolved, `fp32`, `tf32` or `bf16`.
        attention: resolved, a kernel of `model.attention`.
        base_folder: where a random base is saved, so that its adapter can be loaded again; one that is there is taken.
        device: `cpu` or `cuda`, where a quantised base is made; everything else is made on the CPU.

    Raises:
        ModelError: if the base cannot be found or read.
    """
    is_frozen = isinstance(training.adapter, LoraConfig)
    is_bf16 = precision == "bf16" if is_frozen else training.weights_dtype == "bf16"
    dtype = torch.bfloat16 if is_bf16 else torch.float32
    if not isinstance(training.adapter, LoraConfig):
        return load.build_model(model, dtype=dtype, attention=attention)
    from recipe_exp.models import adapters

    build = partial(load.build_model, dtype=dtype, attention=attention)
    build_frozen = partial(build, quantization=training.adapter.quantization, device=device)
    revision = find_commit(model.name, model.revision) if model.pretrained else None
    if model.pretrained:
        network = build_frozen(model)
    else:
        network = build(model)
        _keep_random_base(network, base_folder)
        model = model.model_copy(update={"name": str(base_folder), "pretrained": True})
        if training.adapter.quantization != "none":
            network = build_frozen(model)
    wrapped = adapters.add_lora(network, training.adapter, base=model.name, revision=revision)
    wrapped.train()
    return wrapped


def weights_file(network: nn.Module) -> str:
    """Returns the name of the file that holds the tuned weights: the whole model's or the adapter's."""
    return ADAPTER_WEIGHTS if _has_adapter(network) else FULL_WEIGHTS


def tuned_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Returns the tuned weights by the names that transformers or peft reads, without copies of shared ones."""
    if _has_adapter(network):
        from recipe_exp.models import adapters

        return adapters.adapter_state(network)
    seen: set[int] = set()
    state = {}
    for name, tensor in network.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            state[name] = tensor.contiguous()
    return state


def load_tuned_state(network: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Puts tuned weights back in place.

    Raises:
        ModelError: if names or shapes are another model's.
    """
    if _has_adapter(network):
        from recipe_exp.models import adapters

        adapters.load_adapter_state(network, state)
        return
    expected = tuned_state(network)
    wrong = [
        n for n in {*expected, *state} if n not in expected or n not in state or expected[n].shape != state[n].shape
    ]
    if wrong:
        raise ModelError(f"{len(wrong)} weights of the checkpoint do not fit this model, such as {sorted(wrong)[0]}")
    network.load_state_dict(state, strict=False)


def describe_model(network: nn.Module, folder: Path, *, base: str | None = None) -> None:
    """Writes everything of a loadable model folder but its weights and tokenizer.

    Args:
        network: bare or with an adapter.
        folder: made if it is missing.
        base: fingerprint of the weights under the adapter, which every loading compares; None compares nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if _has_adapter(network):
        from recipe_exp.models import adapters

        adapters.write_adapter_config(network, folder)
        facts = adapters.facts_of(network, base)
        if facts != BaseFacts():
            write_facts(folder, facts)
    else:
        load.write_config(plain_network(network), folder)


def load_model_folder(
    folder: Path, *, precision: str = "fp32", attention: str = "eager", as_trained: bool = False, device: str = "cpu"
) -> Any:
    """Returns the network of a run's `model/` folder, or of any plain T5 or LoRA folder, in evaluation mode.

    As in training, the frozen base of an adapter is held in bf16 where the computation is.

    Args:
        folder: of the model.
        precision: resolved, `fp32`, `tf32` or `bf16`.
        attention: resolved, a kernel of `model.attention`.
        as_trained: whether a base that was quantised in training is quantised again, where bitsandbytes is installed.
        device: `cpu` or `cuda`, where a quantised base is made; everything else is made on the CPU.

    Raises:
        ModelError: if the folder holds no model or its base is missing.
    """
    if (folder / "adapter_config.json").is_file():
        from recipe_exp.models import adapters

        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        network = adapters.load_with_adapter(
            folder, dtype=dtype, attention=attention, as_trained=as_trained, device=device
        )
    elif (folder / "config.json").is_file():
        network = load.load_pretrained(str(folder), dtype=torch.float32, attention=attention)
    else:
        raise ModelError(f"{folder}: no model there; expected config.json or adapter_config.json")
    network.eval()
    return network


def _keep_random_base(network: PreTrainedModel, folder: Path) -> None:
    """Saves a base of random weights; where it is saved already, the network gets what was saved.

    It is built all the same, so that the random state is that of a run that was never interrupted.
    """
    if folder.is_dir():
        load_tuned_state(network, load.read_weights(folder))
    elif os.environ.get("RANK", "0") == "0":
        with folder_written_aside(folder) as aside:
            load.export_model(network, aside)


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """Returns (trainable, all) parameters, shared ones counted once."""
    parameters = list(network.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


@contextmanager
def folder_written_aside(folder: Path) -> Iterator[Path]:
    """Yields a folder to write into, which gets its name once everything in it is on the disk.

    Raises:
        ModelError: if the disk refuses; nothing is left behind.
    """
    aside = folder.with_name(f"{folder.name}.partial")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        for file in aside.iterdir():
            flush_to_disk(file)
        aside.rename(folder)
        flush_to_disk(folder.parent)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if not isinstance(error, (OSError, SafetensorError)):
            raise
        raise ModelError(
            f"{folder}: cannot be written ({reason_of(error)}); make room on that disk, or choose another"
        ) from None


def _has_adapter(network: nn.Module) -> bool:
    return hasattr(network, "peft_config")
