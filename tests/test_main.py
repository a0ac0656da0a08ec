"""The command line, mostly as real processes in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from recipe_exp import __main__ as door
from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.errors import DataError, TrainingError

REPOSITORY = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "mlflow", "accelerate", "peft", "numpy", "tokenizers")
XXL = ("model=flan_t5_xxl", "training=lora", "hardware=rtx5090", "--cfg", "job")
# Runs the package as `python -m` does, and says at the end which libraries that loaded.
SPY = """
import runpy, sys
sys.argv[0] = "recipe_exp"
try:
    runpy.run_module("recipe_exp", run_name="__main__", alter_sys=True)
finally:
    print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@dataclass(frozen=True)
class Ended:
    exit_code: int
    output: str
    errors: str

    @property
    def mistakes(self) -> list[str]:
        """What was printed as `error: ...`; every line of the output must be that."""
        lines = [line for line in self.errors.splitlines() if not line.startswith("loaded: ")]
        assert all(line.startswith("error: ") for line in lines), self.errors
        return [line.removeprefix("error: ") for line in lines]

    @property
    def loaded(self) -> set[str]:
        (line,) = [line for line in self.errors.splitlines() if line.startswith("loaded: ")]
        return set(line.split()[1:])


class Shell:
    """Starts the program in an empty folder, far from the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "empty"
        self.folder.mkdir()
        self.environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "PYTHONPATH")} | {
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
            "RECIPE_EXP_CONFIG_DIR": str(folder / "no_user_config"),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *arguments: str, spy: bool = False, **variables: str) -> Ended:
        """Runs the program to its end."""
        program = ["-c", SPY] if spy else ["-m", "recipe_exp"]
        done = subprocess.run(
            [sys.executable, *program, *arguments],
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def written(self) -> list[Path]:
        return list(self.folder.rglob("*"))


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_data_is_prepared_without_pytorch(shell: Shell) -> None:
    ended = shell.run("task=prepare", "data.max_examples=50", "hardware=cpu", "data.cache_dir=cache", spy=True)
    assert ended.exit_code == 0, ended.errors
    assert ended.loaded & {"torch", "transformers", "mlflow", "accelerate", "peft"} == set()


@pytest.mark.parametrize("arguments", [("--help",), XXL], ids=["help", "cfg"])
def test_looking_loads_nothing_heavy_and_writes_nothing(shell: Shell, arguments: tuple[str, ...]) -> None:
    ended = shell.run(*arguments, spy=True)
    assert ended.exit_code == 0
    assert ended.loaded & set(HEAVY) == set()
    assert {"hydra", "pydantic"} <= ended.loaded
    assert ended.mistakes == []
    assert shell.written() == []


def test_help_names_every_group_with_its_options_and_the_flags(shell: Shell) -> None:
    ended = shell.run("--help")
    for word in ("flan_t5_xxl", "rtx5090", "cosine_with_restarts", "lora", "xxl_lora", "sweeps", "--cfg job", "-m"):
        assert word in ended.output
    assert "schema" not in ended.output
    assert max(map(len, ended.output.splitlines())) <= 120


def test_cfg_prints_the_whole_config(shell: Shell) -> None:
    ended = shell.run(*XXL)
    assert ExperimentConfig.from_data(yaml.safe_load(ended.output)) == compose([*XXL[:3], "local=null"])
    data = yaml.safe_load(ended.output)
    assert data["training"]["adapter"] == {
        "kind": "lora",
        "rank": 16,
        "alpha": 32.0,
        "dropout": 0.05,
        "targets": "attention_qv",
        "rslora": False,
        "dora": False,
        "init": "lora",
        "learning_rate_ratio": None,
        "quantization": "none",
        "start_from": None,
    }


def test_cfg_validates(shell: Shell) -> None:
    ended = shell.run("training.batch_size=0", "evaluation.best_mode=max", "--cfg", "job")
    assert ended.exit_code == 2
    assert ended.output == ""
    assert [line.partition(":")[0] for line in ended.mistakes] == ["training.batch_size=0", "evaluation.best_mode=max"]


MISTAKES = ("model=flan_t5_xxxl", "training.learning_ratte=1e-4", "use_lora=true", "seed=x")


def test_mistakes_end_with_2_and_a_line_each_before_torch(shell: Shell) -> None:
    ended = shell.run(*MISTAKES, spy=True)
    assert ended.exit_code == 2
    assert ended.mistakes == [
        "model=flan_t5_xxxl: no such option; did you mean flan_t5_xxl?",
        "training.learning_ratte=1e-4: no such key; did you mean training.learning_rate?",
        "use_lora=true: no such key; here it is training=lora",
        "seed=x: must be a whole number",
    ]
    assert ended.output == ""
    assert ended.loaded & set(HEAVY) == set()
    assert shell.written() == []


def test_missing_file_is_found_before_torch(shell: Shell) -> None:
    ended = shell.run("data=jsonl", "data.path=nowhere.jsonl", spy=True)
    assert ended.exit_code == 2
    (mistake,) = ended.mistakes
    assert mistake.startswith("data.path=nowhere.jsonl: no such file or folder; looked for in /")
    assert mistake.endswith("/empty")
    assert ended.loaded & set(HEAVY) == set()
    assert shell.written() == []


def test_looking_at_a_config_needs_no_files(shell: Shell) -> None:
    assert shell.run("data=jsonl", "data.path=nowhere.jsonl", "--cfg", "job").exit_code == 0


def test_other_processes_of_a_run_stay_silent(shell: Shell) -> None:
    ended = shell.run("seed=x", RANK="1")
    assert (ended.exit_code, ended.output, ended.errors) == (2, "", "")


def test_flags_of_other_trainers_are_answered(shell: Shell) -> None:
    ended = shell.run("--learning_rate", "1e-4", "--lora_r=8", "--seed=3", "--config-dir", "x")
    assert ended.exit_code == 2
    assert ended.mistakes == [
        "--learning_rate: no such flag; keys are written key=value; here it is training.learning_rate",
        "--lora_r: no such flag; keys are written key=value; here it is training.adapter.rank; with training=lora",
        "--seed: keys are no flags; write seed=...",
        "--config-dir: does nothing here; options of one's own live in the folder that RECIPE_EXP_CONFIG_DIR names",
    ]


def test_keys_count_on_both_sides_of_a_flag(shell: Shell) -> None:
    ended = shell.run("seed=7", "--cfg", "job", "training.batch_size=3")
    config = yaml.safe_load(ended.output)
    assert (config["seed"], config["training"]["batch_size"]) == (7, 3)


def test_configuration_of_ones_own_is_used(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "xdg" / "recipe_exp" / "local" / "default.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("# @package _global_\noutput_dir: /scratch/recipes\n")
    del shell.environment["RECIPE_EXP_CONFIG_DIR"]
    ended = shell.run("--cfg", "job", XDG_CONFIG_HOME=str(tmp_path / "xdg"))
    assert yaml.safe_load(ended.output)["output_dir"] == "/scratch/recipes"


# In this process


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[ExperimentConfig]:
    """Stands in for the task; what it was given is in the list."""
    given: list[ExperimentConfig] = []
    monkeypatch.setenv("RECIPE_EXP_CONFIG_DIR", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(door, "run_task", lambda config: given.append(config) or 0)
    return given


def test_task_gets_the_config_and_gives_the_exit_code(
    task: list[ExperimentConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert door.main(["seed=3", "task=plan"]) == 0
    (config,) = task
    assert (config.seed, config.task.kind) == (3, "plan")
    monkeypatch.setattr(door, "run_task", lambda _: 143)
    assert door.main([]) == 143


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(DataError("recipes.jsonl: empty"), 2), (TrainingError("the loss is not finite"), 1)],
)
def test_errors_of_a_task_are_a_line_and_their_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    task: list[ExperimentConfig],
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    exit_code: int,
) -> None:
    monkeypatch.setattr(door, "run_task", lambda _: raise_(error))
    assert door.main([]) == exit_code
    assert capsys.readouterr().err == f"error: {error}\n"


def raise_(error: BaseException) -> int:
    raise error


def test_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch, task: list[ExperimentConfig]) -> None:
    monkeypatch.setattr(door, "run_task", lambda _: raise_(KeyboardInterrupt()))
    assert door.main([]) == 130


def test_our_own_mistake_keeps_its_trace(monkeypatch: pytest.MonkeyPatch, task: list[ExperimentConfig]) -> None:
    monkeypatch.setattr(door, "run_task", lambda _: raise_(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        door.main([])


def test_several_values_need_the_flag(task: list[ExperimentConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert door.main(["seed=1,2"]) == 2
    assert capsys.readouterr().err == "error: seed=1,2: several values need a sweep; add --multirun\n"
    assert task == []


@pytest.mark.parametrize(
    ("arguments", "as_handed"),
    [
        (["-m", "seed=1,2"], ["-m", "seed=1,2"]),
        (["sweeps=learning_rate"], ["sweeps=learning_rate"]),
        (["hardware=cpu", "-m", "seed=1,2"], ["-m", "hardware=cpu", "seed=1,2"]),
    ],
)
def test_sweep_is_handed_to_the_sweeper(
    monkeypatch: pytest.MonkeyPatch, task: list[ExperimentConfig], arguments: list[str], as_handed: list[str]
) -> None:
    handed: list[list[str]] = []
    monkeypatch.setattr(door, "_hand_to_hydra", lambda arguments: handed.append(arguments) or 0)
    assert door.main(arguments) == 0
    assert handed == [as_handed]
    assert task == []


def test_secrets_come_from_a_file_that_the_environment_wins_over(
    monkeypatch: pytest.MonkeyPatch, task: list[ExperimentConfig], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("RECIPE_EXP_TEST_A=file\nRECIPE_EXP_TEST_B=file\n")
    monkeypatch.setenv("RECIPE_EXP_TEST_A", "environment")
    monkeypatch.setenv("RECIPE_EXP_TEST_B", "")
    monkeypatch.delenv("RECIPE_EXP_TEST_B")
    door.main([])
    assert os.environ["RECIPE_EXP_TEST_A"] == "environment"
    assert os.environ["RECIPE_EXP_TEST_B"] == "file"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["data.prompt=nope"], "data.prompt=nope: no such template"),
        (["resume=nope"], "run nope: there are no runs under"),
        (["training.callbacks=[nope_module:Nope]"], "no module nope_module here"),
        (["data=files", "data.path=.", "data.format=nope_module:read"], "data.format=nope_module:read: no module"),
        (['evaluation.validation_prompts=["title=Toast"]'], "gives no ingredients"),
        (["task=evaluate", "task.run=zzz"], "run zzz: there are no runs under"),
        (["task=merge", "task.run=zzz"], "run zzz: there are no runs under"),
        (["task=generate"], "task.prompts=[]: nothing to write"),
        (["task=evaluate", "task.output=/etc/passwd/x"], "task.output=/etc/passwd/x: cannot be written"),
        (["data.cache_dir=/etc/passwd"], "data.cache_dir=/etc/passwd: cannot be written (/etc/passwd is no folder)"),
        (["data=jsonl", "data.path=/etc/passwd"], "records were rejected, more than data.max_rejected_fraction"),
        (["data=jsonl", "data.path=/dev/zero"], "no folder of recipes"),
        (["model=flan_t5_small", "model.name=/etc"], "config.json: cannot be read"),
        (["training.callbacks=[os:system]"], "os is a part of Python"),
    ],
)
def test_what_other_parts_know_is_refused_before_torch(tmp_path: Path, arguments: list[str], said: str) -> None:
    code = f"""
import sys
from recipe_exp.__main__ import main
code = main({[*arguments, f"output_dir={tmp_path / 'outputs'}"]!r})
print(code, "torch" in sys.modules)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert finished.stdout.split() == ["2", "False"], finished.stderr
    assert said in finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_unwritable_output_dir_is_refused_before_torch(shell: Shell) -> None:
    ended = shell.run("output_dir=/etc/passwd", spy=True)
    assert ended.exit_code == 2
    assert ended.mistakes == [
        "output_dir=/etc/passwd: cannot be written (/etc/passwd is no folder); name a folder that can"
    ]
    assert ended.loaded & {"torch", "transformers", "mlflow"} == set()


def test_cfg_of_a_sweep_looks_at_every_value(shell: Shell) -> None:
    ended = shell.run("-m", "training.batch_size=4,0,8", "training.label_smoothing=0,2", "--cfg", "job")
    assert ended.exit_code == 2
    assert ended.output == ""
    assert ended.mistakes == [
        "training.label_smoothing=2: must be less than 1",
        "training.batch_size=0: must be at least 1",
    ]
    assert yaml.safe_load(shell.run("-m", "seed=3,4", "--cfg", "job").output)["seed"] == 3
    assert yaml.safe_load(shell.run("sweeps=learning_rate", "--cfg", "job").output)["training"]["learning_rate"] == 1e-3


# In this process


def mistakes_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert door.main(list(arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") and line.isprintable() for line in lines)
    return [line.removeprefix("error: ") for line in lines]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "hydra.sweep.dir=/tmp/x", "seed=1,2"], "hydra.sweep.dir=/tmp/x: Hydra's own settings are fixed"),
        (["-m", "hydra.callbacks={a:{_target_:os.getcwd}}", "seed=1,2"], "Hydra's own settings are fixed"),
        (["--info", "all", "hydra/launcher=basic"], "Hydra's own settings are fixed"),
        (["--info", "--experimental-rerun", "x.pickle"], "--experimental-rerun: does nothing here"),
        (["--cfg", "hydra", "--config-dir", "/etc"], "--config-dir: does nothing here"),
        (["--run", "--multirun"], "--run --multirun: each is a command of its own"),
        (["--shell-completion", "zzz"], "--shell-completion: write install=SHELL"),
        (["hydra.launcher.slots=0"], "must be a number of trials, 1 or more"),
    ],
)
def test_hydra_is_not_handed_what_is_fixed(
    task: list[ExperimentConfig], capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert any(said in line for line in mistakes_of(capsys, *arguments))


def test_flags_of_hydra_are_listed_at_once(task: list[ExperimentConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert door.main(["--hydra-help"]) == 0
    shown = capsys.readouterr().out
    assert "--multirun, -m" in shown
    assert "--experimental-rerun" not in shown


def test_many_mistakes_are_counted(task: list[ExperimentConfig], capsys: pytest.CaptureFixture[str]) -> None:
    lines = mistakes_of(capsys, *(f"zzz{number}=1" for number in range(100)))
    assert len(lines) == door.MAX_MISTAKES + 1
    assert lines[-1] == "and 80 more mistakes"


def test_mistakes_never_reach_the_terminal_raw(
    task: list[ExperimentConfig], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(door, "run_task", lambda _: raise_(DataError("\x1b[31m\u202e" + "x" * 5000 + "\nsecond")))
    first, second = mistakes_of(capsys)
    assert first.startswith("?[31m?xxx")
    assert len(first) == door.MAX_MISTAKE_CHARACTERS
    assert second == "second"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", ".env: cannot be read: is not UTF-8"),
        (b"A='b\0c'", ".env: cannot be read: embedded null byte"),
        (b"#" * 2**21, ".env: cannot be read: is larger than 1.0 MiB"),
    ],
)
def test_secrets_that_cannot_be_read_are_a_line(
    task: list[ExperimentConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, said: str
) -> None:
    (tmp_path / ".env").write_bytes(content)
    (line,) = mistakes_of(capsys)
    assert line.startswith(said)
    assert task == []


def test_secrets_do_not_stand_for_each_other(
    task: list[ExperimentConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RECIPE_EXP_TEST_C", raising=False)
    (tmp_path / ".env").write_text("RECIPE_EXP_TEST_C=a${HOME}b\n")
    door.main([])
    assert os.environ.pop("RECIPE_EXP_TEST_C") == "a${HOME}b"
