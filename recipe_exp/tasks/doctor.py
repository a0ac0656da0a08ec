"""`task=doctor`: in seconds and without a download, whether this machine can do what the configuration asks for."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.config.model import ModelConfig
from recipe_exp.config.tracking import TrackingConfig
from recipe_exp.planning.device import Gpu, planned_device, visible_gpus
from recipe_exp.planning.parameters import count_parameters
from recipe_exp.planning.plan import Plan
from recipe_exp.planning.table import size_text
from recipe_exp.tasks.plan import plan_run
from recipe_exp.tracking.locations import default_uri, sqlite_path
from recipe_exp.tracking.redaction import strip_credentials

Status = Literal["ok", "warn", "fail"]

_PACKAGE = "recipe-exp"
_TRACKING_SECONDS = 3.0
_STYLES: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_EXTRAS = {"gpu": "records the GPU's use and memory", "dev": "runs the tests and checks"}
# A card of N GB shows up to this much less: gigabytes of 10^9 bytes, and what the driver keeps.
_CARD_TOLERANCE = 0.9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what.
        status: `ok`, `warn` (the run may be slower or stop later) or `fail` (it cannot run).
        text: what was found.
        fix: what to do about it; empty if nothing.
    """

    subject: str
    status: Status
    text: str
    fix: str = ""


def run(config: ExperimentConfig) -> int:
    """Prints one row for each finding and returns 1 if any of them fails, else 0."""
    findings = list(examine(config))
    Console().print(findings_table(findings))
    return 1 if any(finding.status == "fail" for finding in findings) else 0


def examine(config: ExperimentConfig) -> Iterator[Finding]:
    """Yields what is found about Python, packages, GPU, memory, disk, tracking and the model."""
    gpus = visible_gpus()
    plan = plan_run(config, planned_device(config.hardware))
    yield from check_packages(*declared_requirements())
    yield from check_gpu(config.hardware, config.training.precision, gpus)
    yield check_memory(plan)
    yield check_disk(Path(config.output_dir), plan)
    yield check_tracking(config.tracking, Path(config.output_dir))
    yield check_model(config.model)


def findings_table(findings: list[Finding]) -> Padding:
    """Returns the findings for a terminal: subject, status, what was found and below it the fix."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    for finding in findings:
        text = Text(finding.text)
        if finding.fix:
            text.append(f"\n{finding.fix}", style="bold" if finding.status == "fail" else "")
        table.add_row(finding.subject, Text(finding.status, style=_STYLES[finding.status]), text)
    counts = {status: sum(finding.status == status for finding in findings) for status in _STYLES}
    verdict = "Ready." if not counts["fail"] else f"{counts['fail']} to repair before a run."
    table.add_row("", "", "")
    table.add_row("", "", Text(verdict, style="bold" if counts["fail"] else "bold green"))
    return Padding(table, (1, 0, 1, 1))


def declared_requirements() -> tuple[str, list[str]]:
    """Returns the range of Python and the requirements of the package, extras as markers.

    A checkout's pyproject.toml counts more than the metadata of an installation, which may be older.
    """
    path = Path(__file__).resolve().parents[2] / "pyproject.toml"
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


def check_packages(python_range: str, requirements: list[str]) -> Iterator[Finding]:
    """Yields a row for Python, one for all packages that are right, one for each that is not, and one for each extra.

    Args:
        python_range: such as `>=3.11`.
        requirements: as in a wheel's metadata; `extra == "NAME"` marks an optional one.
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
        yield from _check_extra(extra, purpose, [item for item in parsed if item not in core])


def check_gpu(hardware: HardwareConfig, precision: str, gpus: list[Gpu]) -> Iterator[Finding]:
    """Yields rows for PyTorch's build, the GPU it sees, its architecture and bf16.

    Args:
        hardware: what the configuration asks for.
        precision: as configured.
        gpus: what the driver reports.
    """
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    sees_gpu = torch.cuda.is_available()
    yield Finding("torch", *_torch_build(f"{torch.__version__}, {build}", bool(torch.version.cuda), sees_gpu, gpus))
    if not sees_gpu:
        if hardware.device == "cuda":
            yield Finding("gpu", "fail", "none that PyTorch sees", "add hardware=cpu, or repair what stands above")
        elif not gpus:
            yield Finding("gpu", "ok", "none; training runs on the CPU")
        return
    properties = torch.cuda.get_device_properties(0)
    yield _check_card(hardware, str(properties.name), int(properties.total_memory))
    yield check_architecture(torch.cuda.get_device_capability(), torch.cuda.get_arch_list())
    has_bf16 = torch.cuda.get_device_capability() >= (8, 0)
    if has_bf16 or precision == "fp32":
        yield Finding("bf16", "ok", "on tensor cores" if has_bf16 else "not there and not used")
    else:
        status: Status = "fail" if precision in ("bf16", "tf32") else "warn"
        yield Finding("bf16", status, "not on this GPU, which is older than Ampere", "add training.precision=fp32")


def check_architecture(capability: tuple[int, int], architectures: list[str]) -> Finding:
    """Returns whether PyTorch's binaries run on a GPU of this compute capability.

    Code for a capability runs on later minor ones of the same major; PTX (`compute_NN`) is compiled for any later GPU.

    Args:
        capability: such as (12, 0).
        architectures: as `torch.cuda.get_arch_list()` gives them, such as `sm_120` or `compute_90`.
    """
    major, minor = capability
    wanted = f"sm_{major}{minor}"
    kinds = [
        (kind, int(number.rstrip("abcdef"))) for kind, _, number in (name.partition("_") for name in architectures)
    ]
    has_binary = any(kind == "sm" and n // 10 == major and n % 10 <= minor for kind, n in kinds)
    has_ptx = any(kind == "compute" and n <= 10 * major + minor for kind, n in kinds)
    if has_binary:
        return Finding("architecture", "ok", f"{wanted} is in PyTorch's build")
    if has_ptx:
        return Finding("architecture", "warn", f"{wanted} is compiled at first use, which takes minutes")
    return Finding(
        "architecture",
        "fail",
        f"{wanted} is not in PyTorch's build ({', '.join(architectures)})",
        "install a PyTorch built for a later CUDA version",
    )


def check_memory(plan: Plan) -> Finding:
    """Returns whether the planned run fits the device."""
    found = f"{size_text(plan.peak_bytes)} planned of {size_text(plan.usable_bytes)} usable ({plan.device})"
    if plan.fits:
        return Finding("memory", "ok", found)
    changes = [" ".join(change.overrides) for change in plan.advice]
    return Finding(
        "memory", "fail", found, f"add {changes[0]}" if changes else "take a smaller model; task=plan says why"
    )


def check_disk(output_dir: Path, plan: Plan) -> Finding:
    """Returns whether the checkpoints that are kept at the same time fit under `output_dir`."""
    free = shutil.disk_usage(_existing(output_dir)).free
    found = f"{size_text(free)} free in {output_dir}; a checkpoint takes {size_text(plan.checkpoint_bytes)}"
    if free < plan.checkpoint_bytes:
        return Finding("disk", "fail", found, "free some space, or set output_dir to another disk")
    if free < plan.disk_bytes:
        return Finding("disk", "warn", f"{found}, all that are kept {size_text(plan.disk_bytes)}", "free some space")
    return Finding("disk", "ok", found)


def check_tracking(tracking: TrackingConfig, output_dir: Path) -> Finding:
    """Returns whether the tracking server answers, or its database can be written."""
    if not tracking.enabled:
        return Finding("tracking", "ok", "off; the journal stays in the run folder")
    uri = tracking.uri or default_uri(output_dir)
    shown = strip_credentials(uri)
    later = "training goes on without it; send what is missing with task=sync"
    if uri.startswith(("http://", "https://")):
        problem = _health_problem(uri)
        return (
            Finding("tracking", "warn", f"{shown}: {problem}", later) if problem else Finding("tracking", "ok", shown)
        )
    database = sqlite_path(uri)
    if database is None:
        return Finding("tracking", "ok", f"{shown}; not tried")
    target = database if database.exists() else _existing(database.parent)
    if os.access(target, os.W_OK):
        return Finding("tracking", "ok", f"{database.name} in {database.parent.name}/, can be written")
    return Finding("tracking", "warn", f"{target} cannot be written", "set tracking.uri or output_dir; " + later)


def check_model(model: ModelConfig) -> Finding:
    """Returns whether the model is in a folder or the cache, and how much must be downloaded if not."""
    if not model.pretrained:
        return Finding("model", "ok", f"{model.name}: random weights, nothing to load")
    folder = Path(model.name).expanduser()
    if folder.is_dir():
        is_model = (folder / "config.json").is_file()
        fix = "" if is_model else "model.name must be a folder with config.json and weights, or a name on the hub"
        return Finding("model", "ok" if is_model else "fail", f"{model.name}: a local folder", fix)
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    if _is_cached(cache, model):
        return Finding("model", "ok", f"{model.name}: in the cache")
    size = 4 * count_parameters(model.shape)
    free = shutil.disk_usage(_existing(cache)).free
    found = f"{model.name}: not in the cache; about {size_text(size)} to download, {size_text(free)} free there"
    if constants.HF_HUB_OFFLINE:
        return Finding("model", "fail", found, "HF_HUB_OFFLINE is set: unset it, or give a folder with model.name=...")
    if free < size:
        return Finding("model", "fail", found, "set HF_HOME to a larger disk")
    return Finding("model", "warn", found, "the first run downloads it")


def _problem(requirement: Requirement) -> str | None:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
    return None if requirement.specifier.contains(version, prereleases=True) else f"{version} is installed"


def _check_extra(extra: str, purpose: str, optional: list[Requirement]) -> Iterator[Finding]:
    items = [item for item in optional if item.marker is not None and item.marker.evaluate({"extra": extra})]
    missing = [item.name for item in items if _problem(item) is not None]
    if items and not missing:
        yield Finding(f"extra {extra}", "ok", f"installed; {purpose}")
    elif items:
        yield Finding(f"extra {extra}", "ok", f"not installed ({', '.join(missing)}); {purpose}")


def _torch_build(build: str, is_cuda_build: bool, sees_gpu: bool, gpus: list[Gpu]) -> tuple[Status, str, str]:
    if not gpus or sees_gpu:
        driver = f", driver {gpus[0].driver}" if gpus else ""
        return "ok", build + driver, ""
    if not is_cuda_build:
        return "fail", f"{build}, but there is {gpus[0].name}", "install a CUDA build of PyTorch"
    found = f"{build}, driver {gpus[0].driver}, does not see {gpus[0].name}"
    return "fail", found, "update the driver to one that supports this CUDA version"


def _check_card(hardware: HardwareConfig, name: str, memory_bytes: int) -> Finding:
    found = f"{name}, {size_text(memory_bytes)}"
    if hardware.memory_gb is not None and memory_bytes < _CARD_TOLERANCE * hardware.memory_gb * 1024**3:
        wrong = f"{found}, but hardware.memory_gb={hardware.memory_gb:g}"
        return Finding("gpu", "fail", wrong, "choose the hardware=... of this card, or hardware=auto")
    return Finding("gpu", "ok", found)


def _health_problem(uri: str, opener: Callable[..., Any] = urllib.request.urlopen) -> str | None:
    try:
        with opener(f"{uri.rstrip('/')}/health", timeout=_TRACKING_SECONDS):
            return None
    except HTTPError as error:
        return f"answers with status {error.code}"
    except (OSError, ValueError):
        return f"does not answer within {_TRACKING_SECONDS:.0f} s"


def _is_cached(cache: Path, model: ModelConfig) -> bool:
    snapshots = cache / f"models--{model.name.replace('/', '--')}" / "snapshots"
    return any(_is_complete(snapshot) for snapshot in (snapshots.iterdir() if snapshots.is_dir() else ()))


def _is_complete(snapshot: Path) -> bool:
    """Whether a snapshot has its weights, all parts of them if they come in several; a broken link has no file."""
    index = snapshot / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all((snapshot / name).is_file() for name in ("config.json", *names))


def _existing(path: Path) -> Path:
    """The nearest folder above that exists."""
    path = path.expanduser().absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
