"""Python and the installed packages, against what the package declares."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import platform
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.training import LoraConfig
from recipe_exp.tasks.doctor.findings import Finding, Status

_PACKAGE = "recipe-exp"
_EXTRAS = {
    "gpu": "records the GPU's use and memory",
    "notify": "sends notifications",
    "huggingface": "reads datasets of the Hugging Face Hub",
    "language": "tells the language of a recipe",
    "quantized": "4-bit weights and 8-bit moments",
    "postgres": "records runs in a PostgreSQL database",
    "ctranslate2": "exports for CTranslate2",
    "optuna": "searches with TPE and Gaussian processes, and prunes",
    "flash": "attends from recipe to prompt without padding on a GPU",
    "slurm": "runs the trials of a sweep as jobs of a Slurm cluster",
    "ray": "runs them as tasks of a Ray cluster",
    "dev": "runs the tests and checks",
}


def declared_requirements() -> tuple[str, list[str]]:
    """Returns the range of Python and the requirements of the package, extras as markers.

    A checkout's pyproject.toml counts more than the metadata of an installation, which may be older.
    """
    path = Path(__file__).resolve().parents[3] / "pyproject.toml"
    if not path.is_file():
        metadata = importlib.metadata.metadata(_PACKAGE)
        return str(metadata["Requires-Python"]), importlib.metadata.requires(_PACKAGE) or []
    project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    extras = [
        f'{requirement}; extra == "{extra}"'
        for extra, requirements in project["optional-dependencies"].items()
        for requirement in requirements
    ]
    return str(project["requires-python"]), [*project["dependencies"], *extras]


def needed_extras(config: ExperimentConfig) -> dict[str, str]:
    """Returns the extras without which a run of this configuration is refused, and the setting that needs each."""
    adapter, optimizer, data = config.training.adapter, config.training.optimizer, config.data
    needed = {}
    if isinstance(adapter, LoraConfig) and adapter.quantization != "none":
        needed["quantized"] = f"training.adapter.quantization={adapter.quantization}"
    elif optimizer.kind == "adamw_8bit":
        needed["quantized"] = f"training.optimizer.kind={optimizer.kind}"
    if data.format == "huggingface":
        needed["huggingface"] = f"data.format={data.format}"
    if data.language is not None:
        needed["language"] = f"data.language={data.language}"
    if config.tracking.enabled and (config.tracking.uri or "").startswith("postgres"):
        needed["postgres"] = "tracking.uri=postgresql://..."
    if config.tracking.notify:
        needed["notify"] = "tracking.notify"
    return needed


def check_packages(python_range: str, requirements: list[str], needed: Mapping[str, str]) -> Iterator[Finding]:
    """Yields a row for Python, one for all packages that are right, one for each that is not, and one for each extra.

    Args:
        python_range: such as `>=3.11`.
        requirements: as in a wheel's metadata; `extra == "NAME"` marks an optional one.
        needed: as `needed_extras` returns them.
    """
    is_right = SpecifierSet(python_range).contains(platform.python_version())
    yield Finding(
        "python",
        "ok" if is_right else "fail",
        f"{platform.python_version()} (needs {python_range})",
        "" if is_right else "make a virtual environment with another Python",
    )
    parsed = [Requirement(line) for line in requirements]
    core = [item for item in parsed if item.marker is None or item.marker.evaluate({"extra": ""})]
    wrong = [(item, problem) for item in core if (problem := _problem(item)) is not None]
    if len(wrong) < len(core):
        yield Finding("packages", "ok", f"{len(core) - len(wrong)} of {len(core)} are within their ranges")
    for item, problem in wrong:
        yield Finding("packages", "fail", f"{item.name}: {problem}", f"pip install '{item.name}{item.specifier}'")
    for extra, purpose in _EXTRAS.items():
        optional = [item for item in parsed if item not in core]
        yield from _check_extra(extra, purpose, optional, needed.get(extra))


def check_bitsandbytes(is_needed: bool) -> Finding:
    """Returns whether the library of 4-bit weights and 8-bit moments would load.

    Args:
        is_needed: whether the configured run loads it.
    """
    # It writes to the terminal which kernels it does without, at whoever's import comes first.
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    try:
        version = importlib.metadata.version("bitsandbytes")
    except importlib.metadata.PackageNotFoundError:
        users = "only training=qlora, training=full_8bit and training/optimizer=adamw_8bit need it"
        return Finding("bitsandbytes", "fail" if is_needed else "ok", f"not installed; {users}")
    try:
        importlib.import_module("bitsandbytes")
    except Exception as error:  # whatever a library raises that does not find its own CUDA
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        fix = (
            "pip install 'recipe-exp[quantized]', or pip uninstall bitsandbytes: other libraries load it by themselves"
        )
        status: Status = "fail" if is_needed else "warn"
        return Finding("bitsandbytes", status, f"{version} is installed and cannot be loaded ({reason[:120]})", fix)
    return Finding("bitsandbytes", "ok", f"{version} can be loaded")


def _problem(requirement: Requirement) -> str | None:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
    return None if requirement.specifier.contains(version, prereleases=True) else f"{version} is installed"


def _check_extra(extra: str, purpose: str, optional: list[Requirement], setting: str | None) -> Iterator[Finding]:
    items = [item for item in optional if item.marker is not None and item.marker.evaluate({"extra": extra})]
    missing = [item.name for item in items if _problem(item) is not None]
    if not items:
        return
    if not missing:
        yield Finding(f"extra {extra}", "ok", f"installed; {purpose}")
    elif setting is None:
        yield Finding(f"extra {extra}", "ok", f"not installed ({', '.join(missing)}); {purpose}")
    else:
        found = f"not installed ({', '.join(missing)}), but {setting} needs it"
        yield Finding(f"extra {extra}", "fail", found, f"pip install '{_PACKAGE}[{extra}]'")
