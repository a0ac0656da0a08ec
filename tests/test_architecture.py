"""The house: who imports whom, read from the source of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "recipe_exp"
FLOORS = {
    "errors": 0,
    "files": 0,
    "secrets": 0,
    "signals": 0,
    "kept_memory": 0,
    "config": 1,
    "recipes": 1,
    "data": 2,
    "metrics": 2,
    "tracking": 2,
    "models": 3,
    "hardware": 3,
    "training": 4,
    "evaluation": 4,
    "planning": 4,
    "reports": 4,
    "tasks": 5,
    "sweeping": 5,
    "__main__": 6,
    "__init__": 6,
}
FILE_INPUT_AND_OUTPUT = {
    *("csv", "fcntl", "glob", "gzip", "io", "json", "os", "pathlib", "pickle", "shutil", "sqlite3", "tempfile"),
    *("filelock", "msgspec", "safetensors", "yaml"),
}
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Yields the full name of every module that is imported, wherever the statement stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module
            if node.module == "recipe_exp":
                yield from (f"recipe_exp.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (str(word.value) for word in node.args if isinstance(word, ast.Constant))


@cache
def read(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text(encoding="utf-8"))


@cache
def imports_of(module: str) -> set[str]:
    return set(imported(read(module)))


def top_level_imports_of(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imports_of(module)}


def importers_of(library: str) -> set[str]:
    return {module for module in MODULES if library in top_level_imports_of(module)}


def room_of(module: str) -> str:
    """The package, or the single file, that the module belongs to."""
    return module.partition("/")[0].removesuffix(".py")


def test_reader_finds_imports_wherever_they_stand() -> None:
    source = (
        "import a.b\nif TYPE_CHECKING:\n    from c.d import e\ndef f():\n    from recipe_exp import g\n"
        "    importlib.import_module('h.i')\n    __import__('j')\n"
    )
    assert set(imported(ast.parse(source))) == {"a.b", "c.d", "recipe_exp", "recipe_exp.g", "h.i", "j"}


def test_every_module_has_a_floor() -> None:
    assert {room_of(module) for module in MODULES} <= set(FLOORS)
    assert {"errors", "config", "recipes", "data", "metrics", "tracking", "models", "hardware", "training"} <= {
        room_of(module) for module in MODULES
    }


@pytest.mark.parametrize("module", MODULES)
def test_imports_come_from_a_floor_below(module: str) -> None:
    here = room_of(module)
    for name in imports_of(module):
        package, _, inner = name.partition(".")
        if package != "recipe_exp" or not inner:
            continue
        there = inner.partition(".")[0]
        is_allowed = there in (here, "errors") or FLOORS[there] < FLOORS[here]
        assert is_allowed, f"{module} imports {name}"


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("hydra", ("__main__.py", "config/compose", "sweeping/")),
        ("omegaconf", ("__main__.py", "config/compose", "sweeping/")),
        ("mlflow", ("tracking/",)),
        ("apprise", ("tracking/notify.py",)),
        ("peft", ("models/adapters.py",)),
        ("flash_attn", ("models/",)),
        ("optuna", ("sweeping/study.py",)),
        ("ray", ("sweeping/ray_tasks.py",)),
        ("submitit", ("sweeping/submitit_jobs.py",)),
    ],
)
def test_library_stays_in_its_room(library: str, rooms: tuple[str, ...]) -> None:
    assert [module for module in importers_of(library) if not module.startswith(rooms)] == []


@pytest.mark.parametrize("library", ["hydra", "omegaconf", "mlflow", "apprise", "peft"])
def test_rule_on_a_library_is_about_one_that_is_used(library: str) -> None:
    assert importers_of(library)


def test_bitsandbytes_is_in_two_modules_at_most() -> None:
    assert len(importers_of("bitsandbytes")) <= 2


def test_trainer_knows_no_library_and_no_file() -> None:
    foreign = {"transformers", "peft", "mlflow"} | FILE_INPUT_AND_OUTPUT
    assert top_level_imports_of("training/trainer.py") & foreign == set()
    calls = [node for node in ast.walk(read("training/trainer.py")) if isinstance(node, ast.Call)]
    names = {ast.unparse(call.func) for call in calls}
    assert not {name for name in names if name == "open" or name.endswith((".open", ".write_text", ".read_text"))}
    assert not {name for name in names if name in ("torch.save", "torch.load")}


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("metrics/")])
def test_metrics_need_no_torch_and_no_config(module: str) -> None:
    assert "torch" not in top_level_imports_of(module)
    assert not [name for name in imports_of(module) if name.startswith("recipe_exp.config")]


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(("config/", "recipes/"))])
def test_lowest_floor_loads_nothing_heavy(module: str) -> None:
    heavy = {"torch", "transformers", "mlflow", "accelerate", "peft", "numpy", "tokenizers"}
    assert top_level_imports_of(module) & heavy == set()


def test_only_tasks_take_the_whole_config() -> None:
    """Below the tasks, functions take one section."""
    allowed = ("__main__.py", "__init__.py", "config/", "tasks/", "sweeping/")
    found = [
        module
        for module in MODULES
        if not module.startswith(allowed)
        and any(isinstance(node, ast.Name) and node.id == "ExperimentConfig" for node in ast.walk(read(module)))
    ]
    assert found == []


@pytest.mark.parametrize(
    "path", sorted([*(REPOSITORY / "conf").rglob("*.yaml"), *(REPOSITORY / "sweeps").rglob("*.yaml")]), ids=str
)
def test_no_yaml_names_a_class(path: Path) -> None:
    assert list(keys_in(yaml.safe_load(path.read_text(encoding="utf-8")), "_target_")) == []


def keys_in(value: object, name: str) -> Iterator[object]:
    """Yields what stands under every key of this name, however deep."""
    if isinstance(value, dict):
        yield from (inner for key, inner in value.items() if key == name)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from keys_in(inner, name)
