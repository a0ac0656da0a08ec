from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.tasks.doctor import model as doctor
from recipe_exp.tasks.doctor.findings import Finding

BASE = compose(["model=flan_t5_base"]).model
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one snapshot folder of google/flan-t5-base, that of its branch `main`."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    snapshot = tmp_path / "models--google--flan-t5-base" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    references = snapshot.parents[1] / "refs"
    references.mkdir()
    (references / "main").write_text("abc")
    return snapshot


def found(revision: str | None = None) -> list[Finding]:
    return list(doctor.check_model(BASE.model_copy(update={"revision": revision})))


def test_models_are_looked_for_in_the_cache(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing, cache = found()
    assert (missing.status, cache.status) == ("warn", "ok")
    assert "944 MiB to download" in cache.text
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (hub / "model.safetensors.index.json").write_text(json.dumps(index))
    (hub / "model-1.safetensors").write_text("")
    assert len(found()) == 2
    (hub / "model-2.safetensors").write_text("")
    assert [finding.status for finding in found()] == ["ok"]
    shutil.rmtree(hub)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    (offline,) = found()
    assert (offline.status, "HF_HUB_OFFLINE" in offline.fix) == ("fail", True)


def test_only_the_revision_that_is_asked_for_counts(hub: Path) -> None:
    (hub / "model.safetensors").write_text("")
    (hub.parents[1] / "refs" / "v1").write_text("abc")
    for revision in (None, "main", "v1", "abc"):
        assert [finding.status for finding in found(revision)] == ["ok"]
    missing, _ = found("v2")
    assert (missing.status, missing.text) == ("warn", "google/flan-t5-base at v2: not in the cache")
    (hub.parents[1] / "refs" / "main").write_text("def")
    assert found()[0].status == "warn"


def test_a_cache_without_room_or_permission_is_a_failure(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(10**15, 0, 943 * 1024**2))
    _, cache = found()
    assert (cache.status, cache.fix) == ("fail", "set HF_HOME to a larger disk")
    monkeypatch.setattr(doctor, "writing_problem", lambda _: "it cannot be written")
    _, cache = found()
    assert (cache.status, cache.fix) == ("fail", "set HF_HOME to a folder that can be written")


def test_folders_and_random_weights_need_no_download(tmp_path: Path) -> None:
    folder = BASE.model_copy(update={"name": str(tmp_path)})
    assert [f.status for f in doctor.check_model(folder)] == ["fail"]
    (tmp_path / "config.json").write_text("{}")
    assert [f.status for f in doctor.check_model(folder)] == ["ok"]
    assert [f.status for f in doctor.check_model(compose(["model=t5_tiny"]).model)] == ["ok"]


def test_it_is_said_that_no_code_comes_with_a_model() -> None:
    assert "trust_remote_code is off" in doctor.check_model_code().text
