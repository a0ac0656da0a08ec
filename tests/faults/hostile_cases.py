"""The committed tables of hostile input, and what has to hold whatever a case attacks.

A table is a YAML file in `hostile/`, a list of cases. A case names what it puts in the way and what must come of it:

    name: of the case.
    command: the arguments; each table has one of its own for those that name none.
    says: what the one line names: the file or key, what is wrong, what to do; a list where several must stand there.
    harmless: why the command does its work (exit code 0) and what became of the input.
    exit: the exit code, where it is neither.
    late: it takes PyTorch to know it.
    leaves_a_run: it takes so much work to know it that a run folder was made, which says why it failed.

The other fields are those of `hostile/arena.py`, and one for each table: `local` (a file of the user's, below its
header), `data` (`cwd/recipes.jsonl`), `config`, `record` and `run` (files of a finished run), `model` and `adapter`
(files of a model's folder).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "fixtures" / "schema_1" / "runs"
REPOSITORY = HERE.parents[1]

HEADER = "# @package _global_\n"
LOCAL = "user/local/default.yaml"
RECIPES = "cwd/recipes.jsonl"
RUN_ID = "20261122-145736-gotf"
RUN = f"cwd/outputs/runs/{RUN_ID}-full"
ADAPTER_RUN_ID = "20261122-145743-tnyl"
ADAPTER_RUN = f"cwd/outputs/runs/{ADAPTER_RUN_ID}-lora"
MODEL = "cwd/model"

HEAVY = {"torch", "transformers", "mlflow", "accelerate", "peft"}
MAX_SECONDS = 10.0
MAX_LINES = 21
MAX_LINE_CHARACTERS = 620
# PyTorch makes it as soon as it is imported.
_MADE_BY_PYTORCH = ("tmp/torchinductor", "tmp/torchelastic")

GOOD_ROWS = "".join(
    json.dumps({"title": f"Soup {n}", "ingredients": [f"{n} onions", "water"], "instructions": ["Boil it."]}) + "\n"
    for n in range(60)
)
TINY = (
    "model.shape.d_model=16",
    "model.shape.d_ff=16",
    "model.shape.d_kv=8",
    "model.shape.vocab_size=300",
)
SMALL = (
    "data.validation_fraction=0.1",
    "data.test_fraction=0.05",
    "training.batch_size=4",
    "training.max_steps=1",
    "training.warmup_steps=0",
    "evaluation.every_n_steps=null",
    "evaluation.max_examples=2",
    "evaluation.max_generated_examples=1",
    "evaluation.max_new_tokens=4",
    "hardware=cpu",
    "hardware.num_threads=1",
    "hardware.micro_batch_tokens=512",
    "tracking=journal_only",
)
ON_A_RUN = ("evaluation.max_examples=2", "evaluation.max_new_tokens=4", *SMALL[9:])
COMMANDS = {
    "resume": [f"resume={RUN_ID}", "hardware=cpu", "hardware.num_threads=1", "tracking=journal_only"],
    "evaluate": ["task=evaluate", f"task.run={RUN_ID}", *ON_A_RUN],
    "generate": ["task=generate", f"task.run={ADAPTER_RUN_ID}", "task.prompts=[soup]", *ON_A_RUN],
}

Case = dict[str, Any]


class Arena:
    """Runs cases one after the other in children of one warm process.

    Args:
        folder: gets a sandbox for each case.
        modules: what is imported beforehand.
    """

    def __init__(self, folder: Path, *modules: str) -> None:
        self._folder = folder
        self._numbers = count()
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "hostile" / "arena.py"), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "RECIPE_EXP_CONFIG_DIR": str(folder / "none")},
        )

    def run(self, case: Case) -> dict[str, Any]:
        """Returns what came of a case; its sandbox is `folder`."""
        request = {"folder": str(self._folder / str(next(self._numbers))), **case}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer | {"folder": request["folder"]}

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


@cache
def table(name: str) -> list[Case]:
    """Returns the cases of a table, each with its files and its command."""
    text = (HERE / "hostile" / f"{name}.yaml").read_text(encoding="utf-8")
    cases = [_with_good_rows(case) for case in yaml.safe_load(text)]
    complete = {
        "command_lines": _command_line,
        "option_files": _option_file,
        "data_files": _data_file,
        "run_folders": _run_folder,
        "model_folders": _model_folder,
    }[name]
    return [made for case in cases for made in complete(case)]


def params(name: str, *, late: bool) -> list[Any]:
    """Returns the early or the late cases of a table, as parameters."""
    return [pytest.param(case, id=case["name"]) for case in table(name) if bool(case.get("late")) == late]


def check(case: Case, outcome: dict[str, Any]) -> None:
    """Asserts what holds of every case: one readable line, soon, and nothing done beside the run folder."""
    shown = f"{outcome['output'][-1500:]}\n{outcome['errors'][-3000:]}"
    expected = case.get("exit", 0 if "harmless" in case else 2)
    assert not outcome["hung"], shown
    assert outcome["exit_code"] == expected, shown
    assert outcome["seconds"] < MAX_SECONDS
    check_text(outcome["output"])
    check_errors(outcome["errors"])
    says = case.get("says", [])
    for part in [says] if isinstance(says, str) else says:
        assert part.replace("<cwd>", f"{outcome['folder']}/cwd") in outcome["errors"], shown
    check_writes(case, outcome)


def check_text(text: str) -> None:
    """Asserts that a terminal would do nothing with a text but show it."""
    strange = {character for character in text if not (character.isprintable() or character in "\n\t")}
    assert strange == set()


def check_errors(errors: str) -> None:
    """Asserts that a few readable lines were said, and no trace."""
    check_text(errors)
    assert "Traceback" not in errors, errors[-3000:]
    lines = errors.splitlines()
    assert len(lines) <= MAX_LINES, errors[:3000]
    for line in lines:
        assert line.startswith(("error: ", "warning: ", "note: ", "[transformers] ")), errors[:3000]
        assert len(line) <= MAX_LINE_CHARACTERS


def check_writes(case: Case, outcome: dict[str, Any]) -> None:
    """Asserts that nothing changed outside of `output_dir`, that nothing ran, and that a mistake left nothing."""
    changed = [path for path in outcome["changed"] if not path.startswith(_MADE_BY_PYTORCH)]
    outside = [path for path in changed if path != "cwd/outputs" and not path.startswith("cwd/outputs/")]
    assert outside == []
    if outcome["exit_code"] == 2 and not case.get("late"):
        assert changed == []
        assert HEAVY & set(outcome["loaded"]) == set()
    if outcome["exit_code"] == 2 and not case.get("leaves_a_run"):
        new_runs = [path for path in changed if path.startswith("cwd/outputs/runs/") and "run.json" in path]
        assert [path for path in new_runs if not path.startswith((RUN, ADAPTER_RUN))] == []
    folder = outcome["folder"]
    # PyTorch makes its compiler's cache when bitsandbytes, where it is installed, declares its kernels.
    # A run begins to count its largest memory anew.
    own = ("/dev/", "/proc/self/clear_refs", f"{gettempdir()}/torchinductor_")
    allowed = (f"{folder}/cwd/outputs", f"{folder}/tmp", *own)
    elsewhere = [path for path in outcome["writes"] if not path.startswith(allowed)]
    assert elsewhere == [], elsewhere
    started = [f"subprocess.Popen ('{name}'" for name in ("git", "nvidia-smi", "uname")]
    # What the package's own processes hand each other.
    handed = [f"pickle.find_class ('{name}" for name in ("concurrent.futures.", "recipe_exp.data.", "numpy")]
    harmless = (*started, *handed)
    assert [what for what in outcome["executions"] if not what.startswith(harmless)] == []


def _with_good_rows(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("<good>", GOOD_ROWS)
    if isinstance(value, list):
        return [_with_good_rows(item) for item in value]
    return {key: _with_good_rows(item) for key, item in value.items()} if isinstance(value, dict) else value


def _command_line(case: Case) -> Iterator[Case]:
    yield case


def _option_file(case: Case) -> Iterator[Case]:
    files = dict(case.get("files", {}))
    if "local" in case:
        local = case["local"]
        files[LOCAL] = [HEADER, local] if isinstance(local, str | list) or "repeat" in local else local
    yield {"command": ["--cfg", "job"], **case, "files": files}


def _data_file(case: Case) -> Iterator[Case]:
    files = dict(case.get("files", {}))
    if "data" in case:
        files[RECIPES] = case["data"]
    given = case.get("command", ["data=jsonl", "data.path=recipes.jsonl"])
    is_late = "harmless" in case or case.get("late", False)
    yield {**case, "files": files, "command": [*SMALL, *TINY, *given], "late": is_late, "memory_gib": 6}


def _run_folder(case: Case) -> Iterator[Case]:
    files: Case = {RUN: {"copy": f"<fixtures>/schema_1/runs/{RUN_ID}-full"}}
    if "config" in case:
        files[f"{RUN}/config.yaml"] = _replacement(case["config"])
    if "record" in case:
        record = json.loads((FIXTURES / f"{RUN_ID}-full" / "run.json").read_text(encoding="utf-8"))
        files[f"{RUN}/run.json"] = json.dumps(record | case["record"])
    for name, content in case.get("run", {}).items():
        files[f"{RUN}/{name}"] = _replacement(content)
    is_late = "harmless" in case or case.get("late", False)
    for name in case.get("commands", ["resume", "evaluate"]):
        given = {"command": COMMANDS[name], **case} if name != "own" else case
        yield {
            **given,
            "name": f"{case['name']} {name}",
            "files": files | case.get("files", {}),
            "late": is_late,
            "memory_gib": 6,
        }


def _model_folder(case: Case) -> Iterator[Case]:
    files: Case = {}
    command = case.get("command")
    if "model" in case:
        files[MODEL] = {"copy": f"<fixtures>/schema_1/runs/{RUN_ID}-full/model"}
        files |= {f"{MODEL}/{name}": _overlaid(content, "full", name) for name, content in case["model"].items()}
        command = command or [*SMALL, *_shape_of_the_fixture(), "data.max_examples=60", "model.name=./model"]
    elif "adapter" in case:
        files[ADAPTER_RUN] = {"copy": f"<fixtures>/schema_1/runs/{ADAPTER_RUN_ID}-lora"}
        for name, content in case["adapter"].items():
            files[f"{ADAPTER_RUN}/model/{name}"] = _overlaid(content, "lora", name)
        command = command or COMMANDS["generate"]
    else:
        command = [*SMALL, *_shape_of_the_fixture(), "data.max_examples=60", *case["command"]]
    is_late = "harmless" in case or case.get("late", False)
    yield {**case, "files": files | case.get("files", {}), "command": command, "late": is_late, "memory_gib": 6}


def _overlaid(content: Any, kind: str, name: str) -> Any:
    """Returns a file's content; of a JSON file of the fixture `json` says what is changed in it."""
    if isinstance(content, dict) and "json" in content:
        run = next(FIXTURES.glob(f"*-{kind}"))
        stored = json.loads((run / "model" / name).read_text(encoding="utf-8"))
        return json.dumps({key: value for key, value in (stored | content["json"]).items() if value != "<absent>"})
    return _replacement(content)


def _replacement(content: Any) -> Any:
    """A pipe, a folder or a link does not take the place of a file by itself."""
    is_special = isinstance(content, dict) and any(kind in content for kind in ("fifo", "socket", "folder", "link"))
    return {"remove": True, **content} if is_special else content


@cache
def _shape_of_the_fixture() -> tuple[str, ...]:
    run = next(FIXTURES.glob("*-full"))
    config = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))
    names = ("d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "vocab_size")
    return ("model.pretrained=true", *(f"model.shape.{name}={config[name]}" for name in names))
