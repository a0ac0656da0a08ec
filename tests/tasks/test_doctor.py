"""`task=doctor` as a whole; its checks are looked at one by one in `doctor/`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from recipe_exp.__main__ import main
from recipe_exp.config.compose import compose
from recipe_exp.tasks import doctor
from recipe_exp.tasks.doctor.findings import LIMIT_SECONDS

SUBJECTS = (
    *("python", "packages", "bitsandbytes", "torch", "attention eager", "attention sdpa", "memory", "container"),
    *("disk", "tracking", "model", "model code"),
)


def test_a_sound_machine_exits_with_0_and_keeps_its_disk_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["task=doctor", "hardware=cpu", f"output_dir={tmp_path / 'outputs'}"]) == 0
    printed = capsys.readouterr().out
    assert "Ready." in printed
    assert all(f" {subject} " in printed for subject in SUBJECTS)
    assert max(map(len, printed.splitlines())) <= 80
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_run_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["task=doctor", "model=flan_t5_xxl", "hardware=cpu", "hardware.memory_gb=8", f"output_dir={tmp_path}"]
    assert main(arguments) == 1
    assert "to repair" in capsys.readouterr().out


def test_a_check_that_breaks_is_a_finding_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_down(*_: object) -> None:
        raise RuntimeError("the driver is\ngone, hf_" + "a1B2" * 6)

    for name in ("plan_run", "visible_gpus", "check_model"):
        monkeypatch.setattr(doctor, name, break_down)
    assert main(["task=doctor", "hardware=cpu", f"output_dir={tmp_path}", "tracking=journal_only"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("cannot be checked (RuntimeError: the driver is gone, ***)") == 5
    assert "attention sdpa ok" in printed
    assert "model code ok" in printed


def test_it_ends_within_seconds(tmp_path: Path) -> None:
    started = time.monotonic()
    findings = list(doctor.examine(compose(["hardware=cpu", f"output_dir={tmp_path}"])))
    # By the wall clock, which goes on while a check hangs; one that is given up says so itself.
    assert time.monotonic() - started < 2 * LIMIT_SECONDS
    assert not any("no answer within" in finding.text for finding in findings)


def test_libraries_say_nothing_beside_the_findings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recipe_exp", "task=doctor", "hardware=cpu", f"output_dir={tmp_path}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert "kernels-community" not in done.stdout
