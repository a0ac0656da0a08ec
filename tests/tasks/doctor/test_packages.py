from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from recipe_exp.tasks.doctor.packages import check_bitsandbytes, check_packages, declared_requirements


def test_this_environment_is_within_the_declared_ranges() -> None:
    python_range, requirements = declared_requirements()
    assert any(line.startswith("torch") for line in requirements)
    findings = list(check_packages(python_range, requirements))
    assert {finding.subject for finding in findings} >= {"python", "packages", "extra gpu"}
    assert all(finding.status == "ok" for finding in findings)


def test_wrong_and_missing_packages_are_named_with_their_cure() -> None:
    requirements = ["torch>=999", "no-such-package>=1", "numpy>=2", 'nvidia-ml-py>=12; extra == "gpu"']
    failed = [f for f in check_packages(">=3.99", requirements) if f.status == "fail"]
    assert [f.subject for f in failed] == ["python", "packages", "packages"]
    assert failed[1].fix == "pip install 'torch>=999'"
    assert "not installed" in failed[2].text


@pytest.mark.parametrize(
    ("source", "status"),
    [(None, "ok"), ("", "ok"), ("raise RuntimeError('CUDA Setup failed\\nand more')", "warn")],
    ids=["absent", "sound", "broken"],
)
def test_8_bit_library_is_loaded_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, status: str
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
    finding = check_bitsandbytes()
    assert finding.status == status
    assert ("0.1" in finding.text) == (source is not None)
    assert "and more" not in finding.text
