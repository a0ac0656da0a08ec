"""The model: whether it is here, where it would be downloaded to, and that no code comes along."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from recipe_exp.config.model import ModelConfig
from recipe_exp.files import free_bytes, size_text
from recipe_exp.planning.parameters import count_parameters
from recipe_exp.tasks.doctor.disk import writing_problem
from recipe_exp.tasks.doctor.findings import Finding


def check_model(model: ModelConfig) -> Iterator[Finding]:
    """Yields whether the model is in a folder or the cache, and whether the cache takes it if not."""
    if not model.pretrained:
        yield Finding("model", "ok", f"{model.name}: random weights, nothing to load")
        return
    folder = Path(model.name).expanduser()
    if folder.is_dir():
        is_model = (folder / "config.json").is_file()
        fix = "" if is_model else "model.name must be a folder with config.json and weights, or a name on the hub"
        yield Finding("model", "ok" if is_model else "fail", f"{model.name}: a local folder", fix)
        return
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    shown = model.name if model.revision is None else f"{model.name} at {model.revision}"
    if _is_cached(cache, model):
        yield Finding("model", "ok", f"{shown}: in the cache ({cache})")
    elif constants.is_offline_mode():
        fix = "HF_HUB_OFFLINE is set: unset it, or give a folder with model.name=..."
        yield Finding("model", "fail", f"{shown}: not in the cache ({cache})", fix)
    else:
        yield Finding("model", "warn", f"{shown}: not in the cache", "the first run downloads it")
        yield check_hub_cache(cache, 4 * count_parameters(model.shape))


def check_hub_cache(cache: Path, num_bytes: int) -> Finding:
    """Returns whether a download of this size can be kept."""
    problem = writing_problem(cache)
    if problem is not None:
        return Finding("hub cache", "fail", problem, "set HF_HOME to a folder that can be written")
    free = free_bytes(cache)
    found = f"about {size_text(num_bytes)} to download to {cache}"
    if free is None:
        return Finding("hub cache", "ok", found)
    status = Finding("hub cache", "ok", f"{found}, {size_text(free)} free there")
    return status if free >= num_bytes else Finding("hub cache", "fail", status.text, "set HF_HOME to a larger disk")


def check_model_code() -> Finding:
    """Returns what becomes of code that comes with a model."""
    return Finding("model code", "ok", "trust_remote_code is off: no code of a model is ever downloaded or run")


def _is_cached(cache: Path, model: ModelConfig) -> bool:
    """Whether the cache has the revision: a commit, or a branch or tag that it keeps a reference of."""
    folder = cache / f"models--{model.name.replace('/', '--')}"
    # The branch that the hub's own library takes where none is named.
    revision = model.revision or "main"
    reference = folder / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    return _is_complete(folder / "snapshots" / commit)


def _is_complete(snapshot: Path) -> bool:
    """Whether a snapshot has its weights, all parts of them if they come in several; a broken link has no file."""
    index = snapshot / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all((snapshot / name).is_file() for name in ("config.json", *names))
