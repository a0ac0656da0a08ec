"""Where a run's numbers come from: the code, the installed packages and the machine."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from recipe_exp.secrets import redact

MAX_PATCH_BYTES = 1_000_000
_MAX_UNTRACKED = 200
_SHORT_COMMIT = 10
_TIMEOUT_SECONDS = 10.0
_STACK = (
    "recipe-exp",
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "safetensors",
    "numpy",
    "sentencepiece",
    "sacrebleu",
    "rouge-score-rs",
    "hydra-core",
    "omegaconf",
    "pydantic",
    "mlflow",
    "bitsandbytes",
    "flash-attn",
)


def collect_provenance() -> dict[str, Any]:
    """Facts that explain a changed number, as JSON values.

    Returns:
        `git` (None if the package does not run from a repository of its own: `commit`, `branch`, `dirty`,
        `patch` against the commit, without secrets and at most 1 MB, `patch_is_complete`, `untracked` names),
        `packages` (name to version), `python`, `platform`, `cpu`, `num_cpus`, `memory_bytes` and `gpus`
        (`name`, `memory_bytes`, `driver`).
    """
    return {
        "git": _describe_repository(Path(__file__).resolve().parents[1]),
        "packages": _installed_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "num_cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": _describe_gpus(),
    }


def provenance_changes(then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """Returns what differs between two provenances that may change the last digits of a number, as `what: then -> now`.

    Args:
        then: what `collect_provenance` returned for an earlier execution; None if that is not known.
        now: for this one.
    """
    if then is None:
        return []
    before, after = named_facts(then), named_facts(now)
    if "commit" not in before or "commit" not in after:  # one of them ran from no repository
        before, after = ({name: fact for name, fact in facts.items() if name != "commit"} for facts in (before, after))
    names = [*before, *(name for name in after if name not in before)]
    return [
        f"{name} {before.get(name, 'none')} -> {after.get(name, 'none')}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def named_facts(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Returns what of a provenance may change the last digits of a number, as people name it; only what is known."""
    gpus = provenance.get("gpus") or []
    names = [str(gpu.get("name")) for gpu in gpus]
    counts = [f"{names.count(name)} x {name}" if names.count(name) > 1 else name for name in dict.fromkeys(names)]
    git = provenance.get("git") or {}
    facts = {
        **(provenance.get("packages") or {}),
        "python": provenance.get("python"),
        "CPU": provenance.get("cpu"),
        "GPU": ", ".join(counts),
        "GPU driver": next((gpu.get("driver") for gpu in gpus), None),
        "commit": str(git["commit"])[:_SHORT_COMMIT] if git.get("commit") else None,
    }
    return {name: str(value) for name, value in facts.items() if value}


def _describe_repository(package: Path) -> dict[str, Any] | None:
    root = _git(package, "rev-parse", "--show-toplevel")
    # An installed package may lie inside a repository of something else, such as a project's .venv.
    if root is None or Path(root).resolve() != package.parent:
        return None
    commit = _git(package.parent, "rev-parse", "--verify", "--quiet", "HEAD")
    status = _git(package.parent, "status", "--porcelain", "--untracked-files=normal") or ""
    lines = status.splitlines()
    patch, patch_is_complete = _patch(package.parent, commit)
    return {
        "commit": commit,
        "branch": _git(package.parent, "symbolic-ref", "--short", "--quiet", "HEAD"),
        "dirty": bool(lines),
        "patch": patch,
        "patch_is_complete": patch_is_complete,
        "untracked": [redact(line[3:]) for line in lines if line.startswith("??")][:_MAX_UNTRACKED],
    }


def _git_command(folder: Path, *arguments: str) -> list[str]:
    return ["git", "--no-optional-locks", "-C", str(folder), *arguments]


def _git(folder: Path, *arguments: str) -> str | None:
    """Standard output of a git command; None if git is absent or the command fails."""
    return _run(_git_command(folder, *arguments))


def _run(command: list[str]) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    # Leading blanks carry meaning in `git status`.
    return done.stdout.decode(errors="replace").rstrip()


def _patch(root: Path, commit: str | None) -> tuple[str, bool]:
    """The uncommitted changes of tracked files, and whether they are all there."""
    against = [commit] if commit else []
    options = ["--no-color", "--no-ext-diff", "--no-textconv"]
    try:
        process = subprocess.Popen(
            _git_command(root, "diff", *options, *against), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return "", False
    with process:
        stream = process.stdout
        content = stream.read(MAX_PATCH_BYTES + 1) if stream is not None else b""
        is_complete = len(content) <= MAX_PATCH_BYTES
        if not is_complete:
            process.kill()
            # What is left of a secret that the end cuts through would no longer look like one.
            content = content[: content.rfind(b"\n") + 1]
    # Masking lengthens a short secret, so the limit is applied to what is stored.
    masked = redact(content.decode(errors="replace")).encode()
    is_complete = is_complete and len(masked) <= MAX_PATCH_BYTES
    return masked[:MAX_PATCH_BYTES].decode(errors="ignore"), is_complete


def _installed_versions() -> dict[str, str]:
    versions = {}
    for name in _STACK:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _describe_gpus() -> list[dict[str, Any]]:
    query = "--query-gpu=name,memory.total,driver_version"
    listed = _run(["nvidia-smi", query, "--format=csv,noheader,nounits"])
    gpus = []
    for line in (listed or "").splitlines():
        name, _, rest = line.partition(",")
        memory, _, driver = rest.partition(",")
        with contextlib.suppress(ValueError):
            memory_bytes = int(memory) * 2**20
            gpus.append({"name": name.strip(), "memory_bytes": memory_bytes, "driver": driver.strip()})
    return gpus
