"""What identifies the weights that an adapter sits on: peft loads another base of the same shape without a word."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from recipe_exp.errors import ModelError
from recipe_exp.models.download import fetch_model

BASE_FOLDER = "base"
"""Of a run: the random weights that its adapter is trained on."""
BASE_FILE = "base.json"
"""Stands beside an adapter and says which weights it was trained on."""

# In the order in which transformers looks for them.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def base_fingerprint(name: str, revision: str | None = None) -> str:
    """Returns a hash of a model's weights: of every tensor's name, type, shape and bytes, as its files hold them.

    How the files are cut, and in what precision the weights are computed with later, is no part of it.

    Args:
        name: a local folder, or a model of the Hugging Face hub.
        revision: of the model on the hub.

    Raises:
        ModelError: if the weights cannot be found or read.
    """
    source = str(Path(name).expanduser()) if name.startswith("~") else name
    if Path(source).is_absolute() and not Path(source).is_dir():
        raise ModelError(f"{name}: no such folder, and the weights that the adapter was trained on belong there")
    find = _finder(source, revision)
    try:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            entries: list[tuple[str, str]] = []
            for file in _weight_files(find):
                with safe_open(file, framework="pt") as weights:
                    # hashlib lets other threads run while it reads.
                    entries += pool.map(partial(_entry, weights), weights.keys())
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{name}: its weights cannot be read ({' '.join(str(error).split())[:160]})") from None
    return hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest()


@dataclass(frozen=True)
class BaseFacts:
    """What stands beside an adapter of the base that it was trained on.

    Attributes:
        fingerprint: of the base's weights as they are stored; None if it is not known.
        quantization: how training held them, `none` or `nf4`.
        init: what the adapter started from, `lora` or `pissa`.
    """

    fingerprint: str | None = None
    quantization: Literal["none", "nf4"] = "none"
    init: Literal["lora", "pissa"] = "lora"


def write_facts(folder: Path, facts: BaseFacts) -> None:
    """Writes beside an adapter which base it was trained on, and how."""
    (folder / BASE_FILE).write_text(json.dumps(asdict(facts)) + "\n", encoding="utf-8")


def read_facts(folder: Path) -> BaseFacts:
    """Returns what is stored of the base that the adapter in a folder was trained on; the usual where nothing is.

    Raises:
        ModelError: if the file that holds it is damaged.
    """
    path = folder / BASE_FILE
    if not path.is_file():
        return BaseFacts()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        facts = BaseFacts(stored["fingerprint"], stored.get("quantization", "none"), stored.get("init", "lora"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        facts = None
    known = facts is not None and facts.quantization in ("none", "nf4") and facts.init in ("lora", "pissa")
    if facts is None or not known or not isinstance(facts.fingerprint, str | None):
        raise ModelError(f"{path}: damaged; it says which base the adapter was trained on")
    return facts


def refuse_other_base(folder: Path, name: str, revision: str | None) -> None:
    """Compares the weights of a base with those that the adapter in a folder was trained on.

    Raises:
        ModelError: if they are others.
    """
    then = read_facts(folder).fingerprint
    now = base_fingerprint(name, revision) if then is not None else None
    if now is not None and now != then:
        raise ModelError(
            f"{folder}: the adapter was trained on other base weights than those of {name} now (fingerprint "
            f"{str(then)[:12]} -> {now[:12]}); put the weights of then back there"
        )


def _finder(name: str, revision: str | None) -> Callable[[str], Path | None]:
    """Returns what finds a file of the model, in its folder or in the hub's cache, where it then is."""
    folder = Path(name) if Path(name).is_dir() else fetch_model(name, revision)
    return lambda file: path if (path := folder / file).is_file() else None


def _weight_files(find: Callable[[str], Path | None]) -> Iterable[Path]:
    found = next((path for path in map(find, _WEIGHTS) if path is not None), None)
    if found is None:
        raise FileNotFoundError(f"no {_WEIGHTS[0]}; only safetensors are loaded")
    if found.suffix != ".json":
        return [found]
    try:
        shards = {str(shard) for shard in json.loads(found.read_text(encoding="utf-8"))["weight_map"].values()}
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{found.name} is damaged") from None
    paths = {shard: find(shard) for shard in sorted(shards)}
    missing = [shard for shard, path in paths.items() if path is None]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing")
    return [path for path in paths.values() if path is not None]


def _entry(weights: Any, name: str) -> tuple[str, str]:
    tensor: torch.Tensor = weights.get_tensor(name)
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)} ".encode())
    digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return name, digest.hexdigest()
