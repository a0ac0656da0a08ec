from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recipe_exp.__main__ import main

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "schema_2"


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    shutil.copytree(FIXTURES, tmp_path / "outputs")
    return tmp_path / "outputs"


def test_the_two_newest_runs_are_compared(output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = output_dir / "diff.json"
    assert main(["task=diff", f"output_dir={output_dir}", f"task.output={output}"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == ["full", "lora"]
    assert ["training.adapter.kind", "none", "lora", "numbers"] in lines
    assert ["packages:", "the", "same"] in lines
    assert ["code:", "not", "known"] in lines
    assert any(line[:2] == ["eval/loss", "6.1419"] for line in lines)
    content = json.loads(output.read_text(), parse_constant=pytest.fail)
    assert [each["name"] for each in content["differences"]["data"]] == ["base weights"]
    assert content["metrics"]["eval/loss"][1] is None


def test_an_earlier_version_of_a_run_can_be_named(output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = next((FIXTURES.parent / "schema_1" / "runs").glob("*-full"))
    shutil.copytree(earlier, output_dir / "runs" / earlier.name)
    assert main(["task=diff", f"output_dir={output_dir}", f"task.runs=[{earlier.name},lora]"]) == 0
    assert "training.adapter.kind" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("runs", "message"),
    [("[full]", "1 run; name two"), ("[full,lora,full]", "3 runs; name two"), ("[full,lroa]", "lora")],
)
def test_anything_but_two_runs_is_one_line(
    output_dir: Path, capsys: pytest.CaptureFixture[str], runs: str, message: str
) -> None:
    assert main(["task=diff", f"output_dir={output_dir}", f"task.runs={runs}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_nothing_heavy_is_loaded(output_dir: Path) -> None:
    code = (
        "import sys; from recipe_exp.__main__ import main; "
        f"main(['task=diff', 'output_dir={output_dir}']); "
        "print([name for name in ('torch', 'mlflow', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[]"
