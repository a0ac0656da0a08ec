"""A large file of the hub, downloaded so that what broke off goes on where it stopped, also in another process.

`huggingface_hub` itself asks again within one process, and throws away what it has when that process ends.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from recipe_exp.files import file_lock, flush_to_disk

_SHA256 = re.compile(r"[0-9a-f]{64}")


def download_large_file(name: str, file: str, commit: str) -> Path:
    """Returns the path of a file in the hub's cache; what an earlier process left of it is continued.

    Args:
        name: of the model on the hub.
        file: of the model.
        commit: which version.

    Raises:
        Exception: whatever `huggingface_hub` and its HTTP library raise; what has arrived stays.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    facts = get_hf_file_metadata(hf_hub_url(name, file, revision=commit))
    # Git's own hash of a small file tells nothing that could be compared.
    if facts.etag is not None and facts.size is not None and _SHA256.fullmatch(facts.etag):
        blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        with file_lock(blobs / f".{facts.etag}.lock"):
            if not (blobs / facts.etag).exists():
                _complete(blobs / facts.etag, hf_hub_url(name, file, revision=commit), facts)
    # It finds the content there, and lays out its names.
    return Path(hf_hub_download(name, file, revision=commit))


def _complete(blob: Path, url: str, facts: Any) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    headers = build_hf_headers()
    if urlsplit(facts.location).netloc != urlsplit(url).netloc:
        # The place that the hub sends to is not to see its token.
        headers.pop("authorization", None)
    part = blob.with_name(f"{blob.name}.part")
    with part.open("ab") as stream:
        http_get(facts.location, stream, resume_size=stream.tell(), headers=headers, expected_size=facts.size)
    if _hash_of(part) != blob.name:
        part.unlink()
        raise OSError("what arrived is not what the hub has, and was removed")
    flush_to_disk(part)
    part.replace(blob)


def _hash_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
