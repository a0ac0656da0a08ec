from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.tasks.doctor.packages import (
    check_bitsandbytes,
    check_packages,
    declared_requirements,
    needed_extras,
)

PROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"


def test_this_environment_is_within_the_declared_ranges() -> None:
    python_range, requirements = declared_requirements()
    assert any(line.startswith("torch") for line in requirements)
    findings = list(check_packages(python_range, requirements, {}))
    extras = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    subjects = {finding.subject for finding in findings}
    assert subjects == {"python", "packages", *(f"extra {extra}" for extra in extras)}
    assert all(finding.status == "ok" for finding in findings)


def test_wrong_and_missing_packages_are_named_with_their_cure() -> None:
    requirements = ["torch>=999", "no-such-package>=1", "numpy>=2", 'nvidia-ml-py>=12; extra == "gpu"']
    failed = [f for f in check_packages(">=3.99", requirements, {}) if f.status == "fail"]
    assert [f.subject for f in failed] == ["python", "packages", "packages"]
    assert failed[1].fix == "pip install 'torch>=999'"
    assert "not installed" in failed[2].text


@pytest.mark.parametrize(
    ("overrides", "extra", "setting"),
    [
        (["training=qlora"], "quantized", "training.adapter.quantization=nf4"),
        (["tracking.uri=postgresql+psycopg://user@db/runs"], "postgres", "tracking.uri=postgresql://..."),
        (["training=full_8bit"], "quantized", "training.optimizer.kind=adamw_8bit"),
        (["data=huggingface", "data.path=owner/name"], "huggingface", "data.format=huggingface"),
        (["data.language=de"], "language", "data.language=de"),
        (["tracking.notify=[HOOK]"], "notify", "tracking.notify"),
    ],
)
def test_an_extra_that_the_configuration_needs_and_that_is_missing_is_a_failure(
    overrides: list[str], extra: str, setting: str
) -> None:
    needed = needed_extras(compose(overrides))
    assert needed == {extra: setting}
    requirements = ["numpy>=2", f'no-such-package>=1; extra == "{extra}"', 'none-either>=1; extra == "gpu"']
    (failed,) = [finding for finding in check_packages(">=3", requirements, needed) if finding.status == "fail"]
    assert failed.subject == f"extra {extra}"
    assert failed.text == f"not installed (no-such-package), but {setting} needs it"
    assert failed.fix == f"pip install 'recipe-exp[{extra}]'"
    assert all(finding.status == "ok" for finding in check_packages(">=3", requirements, {}))


def test_a_plain_configuration_needs_no_extra() -> None:
    assert needed_extras(compose([])) == {}


def not_installed(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


@pytest.mark.parametrize("is_needed", [False, True])
@pytest.mark.parametrize(
    ("source", "status"),
    [(None, "ok"), ("", "ok"), ("raise RuntimeError('CUDA Setup failed\\nand more')", "warn")],
    ids=["absent", "sound", "broken"],
)
def test_8_bit_library_is_loaded_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, status: str, is_needed: bool
) -> None:
    if source is not None:
        (tmp_path / "bitsandbytes.py").write_text(source)
        (tmp_path / "bitsandbytes-0.1.dist-info").mkdir()
        (tmp_path / "bitsandbytes-0.1.dist-info" / "METADATA").write_text("Name: bitsandbytes\nVersion: 0.1\n")
        monkeypatch.syspath_prepend(tmp_path)
        # Set first, so that what is imported is taken out again in the end.
        monkeypatch.setitem(sys.modules, "bitsandbytes", sys)
        monkeypatch.delitem(sys.modules, "bitsandbytes")
        assert importlib.metadata.version("bitsandbytes") == "0.1"
    else:
        monkeypatch.setattr("importlib.metadata.version", not_installed)
    finding = check_bitsandbytes(is_needed)
    assert finding.status == ("fail" if is_needed and source != "" else status)
    assert ("training=full_8bit" in finding.text) == (source is None)
    assert ("0.1" in finding.text) == (source is not None)
    assert "and more" not in finding.text
