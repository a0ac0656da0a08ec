from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from recipe_exp.tracking import provenance
from recipe_exp.tracking.provenance import collect_provenance, provenance_changes


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Someone", "-c", "user.email=someone@example.org"]
    subprocess.run(["git", *identity, "-C", str(root), *arguments], check=True, capture_output=True)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    package = tmp_path / "recipe_exp"
    package.mkdir()
    (package / "code.py").write_text("rate = 1\n")
    git(tmp_path, "init", "--initial-branch", "trunk")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    return package


def test_the_facts_are_json_and_there() -> None:
    facts = collect_provenance()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["packages"]["pydantic"]
    assert facts["num_cpus"] >= 1
    assert facts["memory_bytes"] > 1e8
    assert isinstance(facts["gpus"], list)


def test_a_clean_repository(package: Path) -> None:
    described = provenance._describe_repository(package)
    assert described is not None
    assert len(described["commit"]) == 40
    assert (described["branch"], described["dirty"], described["patch"]) == ("trunk", False, "")


def test_a_changed_repository_without_its_secrets(package: Path) -> None:
    (package / "code.py").write_text("rate = 2\nHF_TOKEN = 'hunter2hunter2'\n")
    (package / "notes.txt").write_text("private")
    described = provenance._describe_repository(package)
    assert described is not None
    assert described["dirty"]
    assert "+rate = 2" in described["patch"]
    assert described["patch_is_complete"]
    assert described["untracked"] == ["recipe_exp/notes.txt"]
    assert "hunter2" not in json.dumps(described)
    assert "private" not in json.dumps(described)


def test_a_patch_is_cut_at_a_megabyte(package: Path) -> None:
    (package / "code.py").write_text("x = 1\n" * 400_000)
    described = provenance._describe_repository(package)
    assert described is not None
    assert len(described["patch"].encode()) <= 1_000_000
    assert not described["patch_is_complete"]


def test_a_secret_does_not_survive_where_a_patch_is_cut(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package / "code.py").write_text(f"rate = 2\nuse('hf_{'a1B2' * 8}')\n")
    whole = len(subprocess.run(["git", "-C", package, "diff"], capture_output=True, check=True).stdout)
    for limit in range(whole - 45, whole + 2):
        monkeypatch.setattr(provenance, "MAX_PATCH_BYTES", limit)
        described = provenance._describe_repository(package)
        assert described is not None
        assert "hf_a" not in described["patch"]
        assert "+rate = 2" in described["patch"]


def test_a_secret_in_the_name_of_a_file_does_not_survive(package: Path) -> None:
    (package / f"hf_{'a1B2' * 8}.txt").write_text("private")
    described = provenance._describe_repository(package)
    assert described is not None
    assert described["untracked"] == ["recipe_exp/***.txt"]


def test_a_repository_without_a_commit(tmp_path: Path) -> None:
    (tmp_path / "recipe_exp").mkdir()
    (tmp_path / "recipe_exp" / "code.py").write_text("")
    git(tmp_path, "init")
    described = provenance._describe_repository(tmp_path / "recipe_exp")
    assert described is not None
    assert described["commit"] is None
    assert described["dirty"]


def test_a_repository_around_an_installed_package_is_not_its_own(package: Path) -> None:
    installed = package.parent / ".venv" / "site-packages" / "recipe_exp"
    installed.mkdir(parents=True)
    assert provenance._describe_repository(installed) is None


def test_gpus_are_read_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "NVIDIA GeForce RTX 4090, 24564, 550.54\nGPU is lost, N/A, 1\n"
    monkeypatch.setattr(provenance, "_run", lambda _: listed)
    assert provenance._describe_gpus() == [
        {"name": "NVIDIA GeForce RTX 4090", "memory_bytes": 24564 * 2**20, "driver": "550.54"}
    ]


def test_changes_name_what_may_change_the_last_digits() -> None:
    then = {
        "packages": {"torch": "2.12.0", "peft": "0.20.0", "numpy": "2.4.6"},
        "python": "3.11.7",
        "cpu": "CPU A",
        "num_cpus": 2,
        "memory_bytes": 1,
        "gpus": [{"name": "GPU A", "driver": "1"}] * 2,
        "git": {"commit": "a" * 40},
    }
    assert provenance_changes(then, then) == []
    assert provenance_changes(None, then) == []
    now = {
        **then,
        "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
        "num_cpus": 4,
        "memory_bytes": 2,
        "gpus": [{"name": "GPU B", "driver": "1"}],
        "git": {"commit": "b" * 40},
    }
    assert provenance_changes(then, now) == [
        "torch 2.12.0 -> 2.13.0",
        "peft 0.20.0 -> none",
        "GPU 2 x GPU A -> GPU B",
        "commit aaaaaaaaaa -> bbbbbbbbbb",
    ]
    assert provenance_changes(then, {**then, "git": None}) == [], "not in a repository is no other code"
    assert provenance_changes({**then, "gpus": []}, then) == ["GPU none -> 2 x GPU A", "GPU driver none -> 1"]
