"""What the documentation tells people to type does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from recipe_exp.errors import ExitCode

REPOSITORY = Path(__file__).resolve().parents[1]
STOPPING = (REPOSITORY / "docs" / "stopping.md").read_text(encoding="utf-8")
LOOP, SBATCH = re.findall(r"```bash\n(.*?)```", STOPPING, re.DOTALL)


def run_script(script: str, tmp_path: Path, codes: list[int]) -> tuple[int, list[str]]:
    """Runs a shell script in which `python` ends with one of `codes` after the other; returns its code and calls."""
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    python = 'code=$(head -n1 codes); sed -i 1d codes; echo "python $*" >> called; exit "$code"'
    for name, body in {
        "python": python,
        "scontrol": 'echo "scontrol $*" >> called',
        "srun": '"$@"',
        "sleep": "",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, timeout=30, check=False)
    return done.returncode, (tmp_path / "called").read_text().splitlines()


@pytest.mark.parametrize(
    ("codes", "num_calls"), [([0], 1), ([75, 143, 137, 0], 4), ([75, 1, 0], 2), ([2], 1), ([130], 1)]
)
def test_the_loop_repeats_what_is_worth_repeating(tmp_path: Path, codes: list[int], num_calls: int) -> None:
    _, called = run_script(LOOP, tmp_path, codes)
    assert len(called) == num_calls
    assert all(call.startswith("python -m recipe_exp ") and call.endswith("resume=latest") for call in called)


@pytest.mark.parametrize(("code", "is_requeued"), [(0, False), (1, False), (75, True), (137, True), (143, True)])
def test_the_batch_script_queues_the_same_job_again(tmp_path: Path, code: int, is_requeued: bool) -> None:
    exit_code, called = run_script(SBATCH, tmp_path, [code])
    assert exit_code == code
    assert ("scontrol requeue 7" in called) is is_requeued


def test_the_table_of_exit_codes_is_complete() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", STOPPING, re.MULTILINE)}
    assert documented == {int(code) for code in ExitCode}


def test_links_between_the_documents_lead_somewhere() -> None:
    for document in [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_table_of_models_is_what_the_plan_says() -> None:
    script = REPOSITORY / "benchmarks" / "model_sizes.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=240, check=True)
    text = (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8")
    (documented,) = re.findall(r"<!-- model_sizes -->\n(.*?)<!-- /model_sizes -->", text, re.DOTALL)
    assert documented.strip() == done.stdout.strip()
