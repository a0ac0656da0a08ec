"""Building encoder-decoders: from a checkpoint, or from a shape with random weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    GenerationConfig,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.utils import logging

from recipe_exp.config.model import ModelConfig, ModelShape
from recipe_exp.data.remarks import without_remarks
from recipe_exp.errors import ModelError
from recipe_exp.models.download import fetch_model
from recipe_exp.models.families import FAMILIES, Family
from recipe_exp.models.quantized import Quantization, keep_layout, loading_settings
from recipe_exp.models.stored_files import SHAPE_NAMES, check_model_folder, refuse_other_shape, stored_shape

_MAX_LOGIT_DIFFERENCE = 1e-4

# The padded forward pass of transformers has no such kernels; its own flex_attention is wrong for T5.
for _name in ("sdpa_varlen", "flex", "flex_varlen"):
    AttentionInterface.register(_name, AttentionInterface()["sdpa"])
    AttentionMaskInterface.register(_name, AttentionMaskInterface()["sdpa"])


def build_model(
    model: ModelConfig,
    *,
    dtype: torch.dtype,
    attention: str,
    quantization: Quantization = "none",
    device: str = "cpu",
) -> PreTrainedModel:
    """Returns the network in training mode, with its dropout and checkpointing as configured.

    Args:
        model: which network, and whether from a checkpoint or random.
        dtype: of the weights.
        attention: a kernel of `model.attention`.
        quantization: of a checkpoint's matrices.
        device: `cpu` or `cuda`, where a quantised network is made; any other is made on the CPU.

    Raises:
        ModelError: if the checkpoint cannot be found or has another shape than configured.
    """
    if model.pretrained:
        network = load_pretrained(
            model.name, model.revision, dtype=dtype, attention=attention, quantization=quantization, device=device
        )
        refuse_other_shape(model.name, stored_shape(network.config.to_dict()), model.shape)
    else:
        network = from_shape(model.shape, dtype=dtype, attention=attention)
    if model.dropout is not None:
        set_dropout(network, model.dropout)
    if model.gradient_checkpointing:
        network.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        network.config.use_cache = False
    network.train()
    return network


def from_shape(shape: ModelShape, *, dtype: torch.dtype, attention: str = "eager") -> T5ForConditionalGeneration:
    """Returns a T5 v1.1 network with random weights, under the present default device and random state.

    The output projection starts at 1/sqrt(d_model), so that the first loss is close to ln(vocab_size).
    """
    family = FAMILIES["t5"]
    config = T5Config(
        **{name: getattr(shape, name) for name in SHAPE_NAMES},
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=shape.tie_word_embeddings,
        pad_token_id=family.pad_id,
        eos_token_id=family.eos_id,
        decoder_start_token_id=family.start_id,
        attn_implementation=attention,
        dtype=dtype,
    )
    network = T5ForConditionalGeneration(config).to(dtype)
    if not shape.tie_word_embeddings:
        network.lm_head.weight = nn.Parameter(torch.empty_like(network.lm_head.weight))
        nn.init.normal_(network.lm_head.weight, std=shape.d_model**-0.5)
    network.generation_config = generation_config(family)
    return network


def load_pretrained(
    name: str,
    revision: str | None = None,
    *,
    dtype: torch.dtype,
    attention: str = "eager",
    quantization: Quantization = "none",
    device: str = "cpu",
) -> PreTrainedModel:
    """Returns a network from a local folder or the Hugging Face hub. No code of the checkpoint is ever executed.

    Raises:
        ModelError: if it is neither in the cache nor reachable, is damaged, or is no whole encoder-decoder
            of a family that can be tuned.
    """
    source = str(Path(name).expanduser()) if name.startswith("~") else name
    folder = Path(source) if Path(source).is_dir() else fetch_model(source, revision)
    family = check_model_folder(folder)
    try:
        network, report = _from_folder(
            family, folder, dtype, attention, loading_settings(quantization, dtype=dtype, device=device)
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"model.name={name}: no model that can be read; copy it again or name another with model.name=FOLDER "
            f"({' '.join(str(error).split())[:160]})"
        ) from None
    if report["missing_keys"]:
        # transformers only warns, and goes on with random numbers in their place.
        missing = sorted(report["missing_keys"])
        raise ModelError(f"model.name={name}: no whole model, {len(missing)} weights are missing, such as {missing[0]}")
    bias = getattr(network, "final_logits_bias", None)
    if bias is not None and bool(bias.any()):
        raise ModelError(f"model.name={name}: has a bias on its logits, which the loss here leaves out; name another")
    keep_layout(network)
    network.generation_config = generation_config(family)
    return network


def _from_folder(family: Family, folder: Path, dtype: torch.dtype, attention: str, more: dict[str, Any]) -> Any:
    """Returns the network and what transformers reports of loading it."""
    with quiet_transformers():
        return getattr(transformers, family.network).from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            # Without it, weights in a pickle would be taken where there are no others.
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **more,
        )


def generation_config(family: Family) -> GenerationConfig:
    """Returns a family's special ids and nothing else: lengths and beams are given with every call."""
    return GenerationConfig(
        decoder_start_token_id=family.start_id,
        pad_token_id=family.pad_id,
        eos_token_id=family.eos_id,
        max_length=None,
        do_sample=False,
    )


def set_dropout(network: nn.Module, probability: float) -> None:
    """Sets every dropout layer of the network, and what its configuration says of it."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        for name in ("dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, probability)
    config: Any = network.config
    for name in ("dropout_rate", "dropout", "attention_dropout", "activation_dropout"):
        if hasattr(config, name):
            setattr(config, name, probability)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Returns the weights that `export_model` wrote.

    Raises:
        ModelError: if they are missing or damaged.
    """
    try:
        weights: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder}: its weights cannot be read ({' '.join(str(error).split())})") from None
    return weights


def export_model(network: PreTrainedModel, folder: Path) -> None:
    """Writes a folder that plain `transformers` loads to the same logits.

    transformers 5 ties every T5 in its configuration, whatever the checkpoint holds, and writes that; older readers
    believe it. The exported configuration states what the weights are.

    Raises:
        ModelError: if the written folder does not give the same logits.
    """
    save_plain(network, folder)
    with quiet_transformers():
        _check_reload(network, folder)


def save_plain(network: PreTrainedModel, folder: Path) -> None:
    """Writes weights and configuration, and takes no second look at them."""
    network.generation_config.validate()
    with quiet_transformers():
        network.save_pretrained(folder)
        write_config(network, folder)


def write_config(network: PreTrainedModel, folder: Path) -> None:
    """Writes config.json with the truth about tied embeddings, and its family's generation settings."""
    path = folder / "config.json"
    network.config.save_pretrained(folder)
    stated = json.loads(path.read_text(encoding="utf-8"))
    stated["tie_word_embeddings"] = has_tied_embeddings(network)
    stated["use_cache"] = True
    family = FAMILIES[network.config.model_type]
    stated["architectures"] = [family.network]
    path.write_text(json.dumps(stated, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    generation_config(family).save_pretrained(folder)


def has_tied_embeddings(network: PreTrainedModel) -> bool:
    """Returns whether the output projection is the embedding itself; the configuration does not know."""
    head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
    return bool(head.weight is embedding.weight)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps progress bars and remarks on tied weights and deprecations, which no user can act on, off the terminal."""
    had_progress_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with without_remarks(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if had_progress_bars:
            logging.enable_progress_bar()


def _check_reload(network: PreTrainedModel, folder: Path) -> None:
    # Device and kernel round differently, in bf16 by far more than the tolerance.
    attention = network.config._attn_implementation
    reloaded = type(network).from_pretrained(folder, dtype=network.dtype, attn_implementation=attention)
    reloaded.to(network.device)
    ids = torch.tensor([[5, 6, 7, network.generation_config.eos_token_id]], device=network.device)
    was_training = network.training
    network.eval()
    reloaded.eval()
    with torch.no_grad():
        ours = network(input_ids=ids, labels=ids).logits
        theirs = reloaded(input_ids=ids, labels=ids).logits
    network.train(was_training)
    difference = float((ours - theirs).abs().max())
    if difference > _MAX_LOGIT_DIFFERENCE * max(float(ours.abs().max()), 1.0):
        raise ModelError(f"{folder}: the written model gives other logits than the trained one (by {difference:.2g})")
