from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recipe_exp.__main__ import main
from recipe_exp.config.compose import compose
from recipe_exp.tracking import RunFolder


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def make_run(output_dir: Path, name: str, *overrides: str, **fields: Any) -> RunFolder:
    folder = RunFolder.create(output_dir, run_name=name, command=["recipe_exp"])
    compose([f"output_dir={output_dir}", *overrides]).to_yaml(folder.config_path)
    folder.update_record(**({"status": "finished", "created": fields.pop("created", 1.0)} | fields))
    return folder


def log(folder: RunFolder, step: int, **metrics: float | None) -> None:
    entry = {"step": step, "time": 0.0, "metrics": {name.replace("_", "/", 1): v for name, v in metrics.items()}}
    with folder.metrics_path.open("a") as stream:
        stream.write(json.dumps(entry) + "\n")


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["task=compare", *words]) == 0
    return capsys.readouterr().out


def test_the_table_has_a_row_for_each_run(output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = {"metric": "eval/loss", "step": 4, "value": 1.5}
    place = f"output_dir={output_dir}"
    older = make_run(output_dir, "fast", "training.learning_rate=1e-2", step=8, total_steps=8, best=best, created=1.0)
    newer = make_run(output_dir, "slow", status="interrupted", step=3, total_steps=8, created=2.0)
    log(older, 8, eval_loss=1.75)
    lines = shown(capsys, place).splitlines()
    header, first, second = (line.split() for line in lines[:3])
    assert header == ["learning_rate", "state", "steps", "eval/loss", "time", "run"]
    assert first == ["1", "0.01", "finished", "8", "1.5000", older.run_id]
    assert second[1:] == ["interrupted", "3/8", newer.run_id]
    assert "not ranked: slow: interrupted at step 3" in lines
    assert any(line.split() == ["last", "evaluation", "1", "2"] for line in lines)
    assert any(line.split() == ["eval/loss", "1.7500"] for line in lines)
    only = shown(capsys, place, "task.runs=[slow]").splitlines()[1]
    assert only.split() == ["slow", "interrupted", "3/8", newer.run_id]


def test_many_keys_and_many_runs_stay_readable(output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(8):
        changed = [f"seed={number}", f"training.batch_size={number + 1}", f"training.num_epochs={number + 1}"]
        best = {"metric": "eval/loss", "step": 1, "value": float(number)}
        more = [*changed, f"data.max_examples={number + 99}"]
        folder = make_run(output_dir, f"run {number}", *more, created=number, best=best)
        log(folder, 1, eval_loss=float(number))
    text = shown(capsys, f"output_dir={output_dir}")
    assert "…" not in text
    assert [line.split()[1:] for line in text.splitlines() if line.startswith("training.batch_size ")] == [
        ["1", "2", "3", "4", "5", "6"],
        ["7", "8"],
    ]
    assert [line.split()[1:] for line in text.splitlines() if line.startswith("eval/loss ")] == [
        [f"{number}.0000" for number in range(6)],
        ["6.0000", "7.0000"],
    ]


def test_a_sweep_stands_for_its_trials(output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = RunFolder.create(output_dir, run_name="sweep", kind="sweep", command=["recipe_exp"])
    make_run(output_dir, "alone")
    make_run(output_dir, "trial 1", parent_run_id=sweep.run_id, created=1.0)
    make_run(output_dir, "trial 2", parent_run_id=sweep.run_id, created=2.0)
    output = output_dir / "new folder" / "comparison.json"
    shown(capsys, f"output_dir={output_dir}", f"task.runs=[{sweep.run_id}]", f"task.output={output}")
    assert [run["name"] for run in json.loads(output.read_text())["runs"]] == ["trial 1", "trial 2"]


def test_the_file_holds_everything_as_plain_json(output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(output_dir, "first", step=8, total_steps=8)
    log(folder, 8, eval_loss=None, eval_bleu=0.5)
    output = output_dir / "comparison.json"
    shown(capsys, f"output_dir={output_dir}", f"task.output={output}")
    (run,) = json.loads(output.read_text(), parse_constant=pytest.fail)["runs"]
    assert run["metrics"] == {"eval/bleu": 0.5, "eval/loss": None}
    assert run["best"] is None
    assert run["keys"]["training.batch_size"] == compose([]).training.batch_size


def test_a_page_has_the_plots(output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rate, value in (("1e-3", 2.0), ("1e-2", 1.5)):
        best = {"metric": "eval/loss", "step": 4, "value": value}
        log(make_run(output_dir, rate, f"training.learning_rate={rate}", best=best), 4, eval_loss=value)
    page = output_dir / "comparison.html"
    shown(capsys, f"output_dir={output_dir}", f"task.output={page}")
    text = page.read_text()
    assert "best: learning_rate=0.01" in text.lower()
    assert "eval/loss by learning_rate" in text


def test_the_best_trial_of_a_sweep_can_be_named(output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = RunFolder.create(output_dir, run_name="rates", kind="sweep", command=["recipe_exp"])
    for name, value in (("worse", 2.0), ("better", 1.5)):
        best = {"metric": "eval/loss", "step": 4, "value": value}
        make_run(output_dir, name, parent_run_id=sweep.run_id, best=best)
    text = shown(capsys, f"output_dir={output_dir}", "task.runs=[best:rates]")
    assert "better" in text
    assert "worse" not in text


def test_what_cannot_be_compared_is_one_line(output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"output_dir={output_dir}"
    assert main(["task=compare", place]) == 2
    assert "train one, or set output_dir" in capsys.readouterr().err
    make_run(output_dir, "first")
    assert main(["task=compare", place, "task.runs=[frist]"]) == 2
    assert "nearest: first" in capsys.readouterr().err
    assert main(["task=compare", place, "task.output=/proc/nowhere/x.json"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_run_whose_configuration_is_gone_is_left_out(output_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(output_dir, "first").config_path.unlink()
    make_run(output_dir, "second")
    text = shown(capsys, f"output_dir={output_dir}")
    assert "note: left out" in text
    assert "second" in text


def test_nothing_heavy_is_loaded(output_dir: Path) -> None:
    make_run(output_dir, "first")
    code = (
        "import sys; from recipe_exp.__main__ import main; "
        f"main(['task=compare', 'output_dir={output_dir}']); "
        "print([name for name in ('torch', 'mlflow', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "[]"
