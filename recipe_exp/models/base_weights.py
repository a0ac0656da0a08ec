"""What identifies the weights that an adapter sits on: peft loads another base of the same shape without a word."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError, safe_open

from recipe_exp.data.hub import hub_is_reachable
from recipe_exp.errors import ModelError

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


def write_base(folder: Path, fingerprint: str) -> None:
    """Writes beside an adapter which weights it was trained on."""
    (folder / BASE_FILE).write_text(json.dumps({"fingerprint": fingerprint}) + "\n", encoding="utf-8")


def read_base(folder: Path) -> str | None:
    """Returns the fingerprint of the weights that the adapter in a folder was trained on, None if it is not stored.

    Raises:
        ModelError: if the file that holds it is damaged.
    """
    path = folder / BASE_FILE
    if not path.is_file():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(f"{path}: damaged; it says which base the adapter was trained on") from None


def refuse_other_base(folder: Path, name: str, revision: str | None) -> None:
    """Compares the weights of a base with those that the adapter in a folder was trained on.

    Raises:
        ModelError: if they are others.
    """
    then = read_base(folder)
    now = base_fingerprint(name, revision) if then is not None else None
    if now is not None and now != then:
        raise ModelError(
            f"{folder}: the adapter was trained on other base weights than those of {name} now (fingerprint "
            f"{str(then)[:12]} -> {now[:12]}); put the weights of then back there"
        )


def _finder(name: str, revision: str | None) -> Callable[[str], Path | None]:
    """Returns what finds a file of the model: in its folder, in the hub's cache, or on the hub."""
    if Path(name).is_dir():
        return lambda file: path if (path := Path(name) / file).is_file() else None

    def find(file: str) -> Path | None:
        cached = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        try:
            return Path(hf_hub_download(name, file, revision=revision)) if hub_is_reachable() else None
        except EntryNotFoundError:
            return None

    return find


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
