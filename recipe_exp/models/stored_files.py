"""Model folders as somebody else may have made them: looked at before transformers or peft is, and without PyTorch.

What is checked here is what those libraries take on trust: an unknown architecture, dimensions that fit into no
memory, weights that are cut off or lie elsewhere, settings of an adapter that would run something.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from recipe_exp.config.messages import show_path, show_value
from recipe_exp.config.model import ModelShape
from recipe_exp.data.readers.files import LFS_POINTER
from recipe_exp.data.tokens.byte_tokenizer import reads_bytes
from recipe_exp.errors import ModelError
from recipe_exp.files import read_regular_file, reason_of
from recipe_exp.models.families import FAMILIES, Family, family_of

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
SHAPE_NAMES = ("d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "vocab_size")

TOKENIZER = "tokenizer.json"
SENTENCEPIECE = "spiece.model"

PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
"""What PyTorch's own format of weights is called on the hub."""

_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".ckpt"})
_MAX_CONFIG_BYTES = 4 * 2**20
_MAX_TOKENIZER_BYTES = 64 * 2**20
_MAX_HEADER_BYTES = 64 * 2**20
_MAX_DIMENSION = 10_000_000
_MAX_LAYERS = 1_000
_MAX_RANK = 65_536
_CLASS_SUFFIX = "ForConditionalGeneration"
_PRECISIONS = (None, "float32", "float16", "bfloat16")
_OTHER_ARCHITECTURES = {
    **dict.fromkeys(
        ("mbart", "pegasus", "marian"),
        "its positions and biases are others, so the loss, the memory plan and the adapters' targets are unknown",
    ),
}
_INITIALISATIONS = (True, False, None, "gaussian")
_PLAIN_NAME = re.compile(r"[\w.-]+", re.ASCII)


def check_model_folder(folder: Path, shape: ModelShape | None = None) -> Family:
    """Refuses a folder that holds no whole encoder-decoder in safetensors, and returns the family of any other.

    Args:
        folder: of `config.json` and the weights.
        shape: the dimensions that it is expected to have; None for any.

    Raises:
        ModelError: with the first thing that is wrong, the file it is in and the remedy.
    """
    config = _read_json(folder / CONFIG)
    family = _check_config(folder / CONFIG, config)
    if shape is not None:
        refuse_other_shape(show_path(folder), stored_shape(config), shape)
    tensors = [name for file in _weight_files(folder) for name in _tensor_names(file)]
    blocks = {int(match[1]) for match in map(family.block.match, tensors) if match}
    num_blocks = config[family.dimensions["num_layers"]]
    if len(blocks) != num_blocks:
        raise ModelError(
            f"{show_path(folder)}: {CONFIG} tells of {num_blocks} encoder blocks and the weights hold "
            f"{len(blocks)}; copy the model again"
        )
    return family


def stored_family(folder: Path) -> Family | None:
    """Returns the family of a folder's model; None of one that cannot be read or tuned."""
    try:
        return family_of(_read_json(folder / CONFIG).get("model_type"))
    except ModelError:
        return None


def check_adapter_folder(folder: Path) -> None:
    """Refuses a folder whose adapter is no plain LoRA in safetensors.

    Raises:
        ModelError: with the first thing that is wrong, the file it is in and the remedy.
    """
    path = folder / ADAPTER_CONFIG
    config = _read_json(path)
    rank, targets = config.get("r"), config.get("target_modules")
    names = targets if isinstance(targets, list) else [targets]
    wrong = {
        "peft_type": config.get("peft_type") != "LORA",
        "r": not _is_count(rank, _MAX_RANK),
        "lora_alpha": not isinstance(config.get("lora_alpha"), int | float),
        "target_modules": not all(isinstance(name, str) and _PLAIN_NAME.fullmatch(name) for name in names),
        "base_model_name_or_path": not isinstance(config.get("base_model_name_or_path"), str),
        "revision": not isinstance(config.get("revision"), str | None),
        "init_lora_weights": config.get("init_lora_weights", True) not in _INITIALISATIONS,
        "megatron_config": config.get("megatron_config") is not None,
        "layer_replication": config.get("layer_replication") is not None,
    }
    _refuse_first(path, config, wrong, "no plain LoRA adapter of a T5")
    if not os.path.lexists(folder / ADAPTER_WEIGHTS):
        _refuse_missing(folder, ADAPTER_WEIGHTS)
    _tensor_names(folder / ADAPTER_WEIGHTS)


def max_positions_of(folder: Path) -> int | None:
    """Returns the most tokens that a folder's model can read or write; None if there is no longest text."""
    config = _read_json(folder / CONFIG)
    family = family_of(config.get("model_type"))
    positions = config.get(family.max_positions) if family is not None and family.max_positions is not None else None
    return positions if _is_count(positions, _MAX_DIMENSION) else None


def check_tokenizer_folder(folder: Path, family: Family) -> None:
    """Refuses a folder without a tokenizer, or with one of another kind than its family's.

    Args:
        folder: of a `tokenizer.json`, or of what it is made from.
        family: of the model.

    Raises:
        ModelError: with what is wrong and the remedy.
    """
    path = folder / TOKENIZER
    if path.is_file():
        model = _read_json(path, _MAX_TOKENIZER_BYTES).get("model")
        if not isinstance(model, dict) or model.get("type", "Unigram") != family.tokenizer:
            raise ModelError(
                f"{show_path(path)}: is no {family.tokenizer} tokenizer, as {family.network} has one; copy the model "
                "again"
            )
    elif family.tokenizer != "Unigram":
        raise ModelError(
            f"{show_path(folder)}: holds no {TOKENIZER}; write it with transformers: AutoTokenizer's save_pretrained"
        )
    elif not (folder / SENTENCEPIECE).is_file() and not reads_bytes(folder):
        raise ModelError(f"{show_path(folder)}: holds no tokenizer; it needs a {TOKENIZER} or a {SENTENCEPIECE}")


def stored_shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the dimensions that a `config.json` tells of, by the names of `model.shape`."""
    dimensions = FAMILIES[config["model_type"]].dimensions
    found = {name: config[key] for name, key in dimensions.items()}
    return {"d_kv": found["d_model"] // found["num_heads"], **found}


def refuse_other_shape(place: str, stored: Mapping[str, Any], shape: ModelShape) -> None:
    """Refuses a checkpoint of other dimensions than those that are configured.

    Raises:
        ModelError: with every dimension that differs.
    """
    differences = [
        f"{name} {stored[name]} instead of {getattr(shape, name)}"
        for name in SHAPE_NAMES
        if stored[name] != getattr(shape, name)
    ]
    if differences:
        raise ModelError(
            f"model.name={place}: the checkpoint has {', '.join(differences)}; "
            "choose the matching model=... or set model.shape"
        )


def _check_config(path: Path, config: dict[str, Any]) -> Family:
    family = family_of(config.get("model_type"))
    if family is None:
        _refuse_other_architecture(path, config.get("model_type"))
    if family.dimensions["num_decoder_layers"] == "num_decoder_layers" and config.get("num_decoder_layers") is None:
        config["num_decoder_layers"] = config.get("num_layers")
    keys = [*family.dimensions.values(), *([family.max_positions] if family.max_positions is not None else [])]
    limits = {key: _MAX_LAYERS if "layers" in key else _MAX_DIMENSION for key in keys}
    wrong = {
        **{key: not _is_count(config.get(key), limit) for key, limit in limits.items()},
        **{key: key in config and config[key] not in allowed for key, allowed in family.settings.items()},
        **{key: config.get(key) != config.get(other) for key, other in family.equal.items()},
        "dtype": config.get("dtype") not in _PRECISIONS,
        "torch_dtype": config.get("torch_dtype") not in _PRECISIONS,
        "quantization_config": config.get("quantization_config") is not None,
    }
    _refuse_first(path, config, wrong, f"no {family.network.removesuffix(_CLASS_SUFFIX)} that can be tuned here")
    return family


def _refuse_other_architecture(path: Path, model_type: Any) -> NoReturn:
    """Says plainly what is unknown of an encoder-decoder that transformers could load and this package cannot tune."""
    shown = f"{show_path(path)}: model_type={show_value(model_type) if model_type is not None else 'absent'}"
    reason = _OTHER_ARCHITECTURES.get(
        model_type if isinstance(model_type, str) else "",
        "of others the memory plan, the adapters' targets and the loss are unknown",
    )
    raise ModelError(f"{shown}: no T5 that can be tuned here: {reason}; name a T5, mT5, ByT5 or BART")


def _refuse_first(path: Path, config: Mapping[str, Any], wrong: Mapping[str, bool], what: str) -> None:
    name = next((name for name, is_wrong in wrong.items() if is_wrong), None)
    if name is not None:
        value = show_value(config[name]) if name in config else "absent"
        raise ModelError(f"{show_path(path)}: {name}={value}: {what}; name another folder, or copy this one again")


def _is_count(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= limit


def _read_json(path: Path, max_bytes: int = _MAX_CONFIG_BYTES) -> dict[str, Any]:
    try:
        content = json.loads(read_regular_file(path, max_bytes).decode())
    except (OSError, ValueError, RecursionError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else "no JSON in UTF-8"
        raise ModelError(f"{show_path(path)}: cannot be read ({reason}); copy the model again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{show_path(path)}: is not a JSON object; copy the model again")
    return content


def explain_pickle(pickle: str, place: str) -> str:
    """Returns why weights in a pickle are not loaded, and the command that writes them as safetensors.

    Args:
        pickle: name of the file.
        place: a folder, or a model's name on the hub, which the command then writes to the folder `FOLDER`.
    """
    target = place if os.path.isdir(place) else "FOLDER"  # noqa: PTH112 - pathlib raises for a name that is too long
    if pickle.startswith("pytorch_model"):
        command = (
            f"from transformers import AutoModelForSeq2SeqLM as M; M.from_pretrained({place!r}, use_safetensors=False, "
            f"weights_only=True).save_pretrained({target!r})"
        )
    else:
        command = (
            f"import torch, safetensors.torch as s; s.save_file(torch.load({f'{place}/{pickle}'!r}, weights_only=True, "
            f"map_location='cpu'), {f'{target}/{Path(pickle).stem}.safetensors'!r}, {{'format': 'pt'}})"
        )
    return (
        f"{pickle} is a pickle, which may execute anything when it is loaded, so it is not; this reads nothing but "
        f'weights of it and writes them as safetensors: python -c "{command}"'
    )


def _refuse_missing(folder: Path, name: str) -> NoReturn:
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLE_SUFFIXES)
    if not pickles:
        raise ModelError(f"{show_path(folder)}: holds no {name}; copy the model again, or name another folder")
    place = show_path(folder)
    is_plain = place == str(folder) and not {'"', "$", "`", "\\"} & {*place, *pickles[0]}
    raise ModelError(f"{place}: {explain_pickle(pickles[0], place if is_plain else 'FOLDER')}")


def _weight_files(folder: Path) -> list[Path]:
    if os.path.lexists(folder / WEIGHTS):
        return [folder / WEIGHTS]
    if not os.path.lexists(folder / INDEX):
        _refuse_missing(folder, WEIGHTS)
    listed = _read_json(folder / INDEX).get("weight_map")
    names: Iterable[Any] = dict.fromkeys(map(str, listed.values())) if isinstance(listed, dict) else [None]
    for name in names:
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name) or not name.endswith(".safetensors"):
            raise ModelError(
                f"{show_path(folder / INDEX)}: lists {show_value(name)}, which is no safetensors file beside it; "
                "copy the model again"
            )
    return [folder / str(name) for name in names]


def _tensor_names(path: Path) -> list[str]:
    """Returns the names in a safetensors file's header, which also tells how long the file has to be."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ValueError
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise ValueError
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            end = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
        if end != size - 8 - length:
            raise ValueError
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else _explain(path)
        raise ModelError(f"{show_path(path)}: {reason}; copy the model again") from None
    return list(header)


def _explain(path: Path) -> str:
    if path.is_file() and path.stat().st_size < 1_000 and path.read_bytes().startswith(LFS_POINTER):
        return "is a Git LFS pointer, not the weights; run `git lfs pull` where it was cloned"
    return "cut off, or no safetensors file"
