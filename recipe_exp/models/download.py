"""Models of the Hugging Face hub: found in its cache, or fetched into it, always as one commit."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from recipe_exp.config.model import ModelConfig
from recipe_exp.data.hub import hub_is_reachable
from recipe_exp.errors import ModelError
from recipe_exp.models.families import Family
from recipe_exp.models.resumed_file import download_large_file
from recipe_exp.models.stored_files import CONFIG, INDEX, PICKLES, WEIGHTS, explain_pickle, stored_family

_MAX_REASON_CHARACTERS = 160


def find_model(name: str, revision: str | None = None) -> Path | None:
    """Returns the folder of the hub's cache that holds a model whole; None if any of it is missing.

    Args:
        name: of the model on the hub.
        revision: branch, tag or commit; None is the default branch, as it was when it was last fetched.
    """
    config = _find(name, CONFIG, revision)
    if config is None:
        return None
    folder = config.parent
    if (folder / WEIGHTS).is_file():
        return folder
    shards = _shards(folder / INDEX) if (folder / INDEX).is_file() else []
    return folder if shards and all((folder / shard).is_file() for shard in shards) else None


def find_commit(name: str, revision: str | None = None) -> str | None:
    """Returns the commit that a model's name and revision stand for in the hub's cache, None for a local folder."""
    if os.path.isdir(os.path.expanduser(name)):  # noqa: PTH111, PTH112 - pathlib raises for the home of nobody
        return None
    config = _find(name, CONFIG, revision)
    return config.parent.name if config is not None else None


def find_folder(name: str, revision: str | None = None) -> Path | None:
    """Returns the folder of a model's config.json on this machine, local or of the hub's cache; None without one."""
    path = os.path.expanduser(name)  # noqa: PTH111 - pathlib raises for the home of nobody
    if os.path.isdir(path):  # noqa: PTH112
        return Path(path)
    config = _find(name, CONFIG, revision)
    return config.parent if config is not None else None


def known_family(model: ModelConfig) -> Family | None:
    """Returns the family of a model whose config.json is on this machine; None of random weights and of all others."""
    folder = find_folder(model.name, model.revision) if model.pretrained else None
    return stored_family(folder) if folder is not None else None


def fetch_model(name: str, revision: str | None = None) -> Path:
    """Returns the folder of the hub's cache that holds a model whole; what is missing is downloaded.

    All files are of the commit that the first of them came from. A download that broke off is continued.

    Args:
        name: of the model on the hub.
        revision: branch, tag or commit; None takes the default branch.

    Raises:
        ModelError: it is not in the cache and cannot be downloaded, or there are no safetensors of it.
    """
    found = find_model(name, revision)
    if found is not None:
        return found
    if not hub_is_reachable():
        raise ModelError(
            f"model.name={name}: not found in the local cache, and the hub cannot be reached; give a folder with "
            "model.name=FOLDER, or fetch it where there is a network, with task=prepare task.model=true"
        )
    with _progress_shown(name), _errors_in_one_line(name, revision):
        folder = _download(name, CONFIG, revision).parent
        _download_weights(name, folder)
    return folder


def _download_weights(name: str, folder: Path) -> None:
    from huggingface_hub.errors import EntryNotFoundError

    commit = folder.name
    try:
        download_large_file(name, WEIGHTS, commit)
    except EntryNotFoundError:
        try:
            index = _download(name, INDEX, commit)
        except EntryNotFoundError:
            _refuse_without_safetensors(name, commit)
        for shard in _shards(index):
            download_large_file(name, shard, commit)


def _refuse_without_safetensors(name: str, commit: str) -> NoReturn:
    pickle = next((file for file in PICKLES if _is_on_hub(name, file, commit)), None)
    if pickle is None:
        raise ModelError(f"model.name={name}: holds no {WEIGHTS}; name a model that does, or a folder")
    raise ModelError(f"model.name={name}: {explain_pickle(pickle, name)}")


def _is_on_hub(name: str, file: str, commit: str) -> bool:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    try:
        get_hf_file_metadata(hf_hub_url(name, file, revision=commit))
    except EntryNotFoundError:
        return False
    return True


def _download(name: str, file: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(name, file, revision=revision))


def _find(name: str, file: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except HFValidationError:  # no name that a model can have
        return None
    return Path(found) if isinstance(found, str) else None


def _shards(index: Path) -> list[str]:
    """Returns the names of the files that an index lists; an index that is damaged lists none."""
    try:
        return sorted({str(shard) for shard in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


@contextmanager
def _progress_shown(name: str) -> Iterator[None]:
    """Leaves the hub's bars on a terminal; a log gets one line instead, and the other processes of a run none."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    is_main = os.environ.get("RANK", "0") == "0"
    had_bars = not are_progress_bars_disabled()
    if is_main:
        print(f"fetching {name} from the hub", file=sys.stderr)
    if not (is_main and sys.stderr.isatty()):
        disable_progress_bars()
    try:
        yield
    finally:
        if had_bars:
            enable_progress_bars()


@contextmanager
def _errors_in_one_line(name: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub import errors

    shown = f"model.name={name}"
    try:
        yield
    except errors.GatedRepoError:
        raise ModelError(
            f"{shown}: its owner lets only those load it who were granted it; ask on its page, then set HF_TOKEN"
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelError(
            f"model.revision={revision}: {name} has no such branch, tag or commit; null takes the default branch"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelError(
            f"{shown}: the hub has no such model, or it is private and HF_TOKEN is not set; check the name, or give a "
            "folder with model.name=FOLDER"
        ) from None
    except errors.RemoteEntryNotFoundError as error:
        raise ModelError(f"{shown}: a file that it needs is missing on the hub ({_reason(error)})") from None
    except ModelError:
        raise
    except Exception as error:  # of whichever HTTP library the hub's own is built on
        raise ModelError(
            f"{shown}: the download broke off ({_reason(error)}); repeat the command, which goes on where it stopped"
        ) from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:_MAX_REASON_CHARACTERS] or type(error).__name__
