"""A signal ends a run in order wherever it arrives: the run is marked, and the command that it prints continues it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil
import pytest
from chaos import Attempt, ForkServer, preparing
from fault_child import Trigger
from fault_outcome import Outcome, assert_same, assert_tracked_once, read_cache, read_outcome, the_run
from fault_processes import (
    MAX_SECONDS_TO_END,
    ROLES,
    Blow,
    PlainProcess,
    recipe_exp_command,
    strike,
    wait_for_uploaders,
)

from recipe_exp.files import is_locked

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}
UNFINISHED = 75
PRINTED = re.compile(r"^ *python -m recipe_exp (resume=.*)$", re.MULTILINE)
HALF_DONE = re.compile(r"\.(partial|tmp|previous)(/|$)|file_hashes\.json\.")


@dataclass(frozen=True)
class Moment:
    """A line of the child's: the Nth, or the Nth after another line came for the `nth` time."""

    pattern: str
    occurrence: int = 1
    after: str | None = None
    nth: int = 1

    def trigger(self, number: int, whole: Attempt) -> Trigger:
        """The signal that comes at this moment."""
        before = 0
        if self.after is not None:
            markers = [index for index, line in enumerate(whole.events) if re.match(self.after, line)]
            before = sum(re.match(self.pattern, line) is not None for line in whole.events[: markers[self.nth - 1]])
        return Trigger(self.pattern, before + self.occurrence, number)


PHASES = {
    "data preparation": Moment(r"opened .*\.building/\w+/tokens", 2),
    "tokenizer": Moment(r"os\.mkdir .*\.building/tokenizer"),
    "model build": Moment(r"call build$"),
    "step": Moment(r"call backward$", after=r"call step$", nth=17),
    "save": Moment(r"opened .*/step-\d+\.partial/manifest\.json$", 5),
    "model/": Moment(r"os\.rename .*/model\.partial$", 3),
    "evaluation": Moment(r"call loss$", after=r"call evaluate$", nth=4),
    "generation": Moment(r"call token$", 5, after=r"call evaluate$", nth=4),
    "samples": Moment(r"write .*/samples\.jsonl$", 4),
    "last evaluation": Moment(r"call loss$", after=r"call evaluate$", nth=6),
}
FAST = (
    ("data preparation", signal.SIGTERM),
    ("step", signal.SIGINT),
    ("save", signal.SIGUSR1),
    ("evaluation", signal.SIGTERM),
    ("generation", signal.SIGINT),
)
REST = tuple((phase, number) for phase in PHASES for number in EXIT_CODES if (phase, number) not in FAST)


class Whole(Protocol):
    """What the fixture `whole` is."""

    folder: Path
    attempt: Attempt
    outcome: Outcome


class WholeOfTwo(Protocol):
    """What the fixture `whole_of_two` is."""

    outcome: Outcome
    seconds: float


def status_of(folder: Path) -> str:
    return str(json.loads((the_run(folder) / "run.json").read_text())["status"])


def half_done(folder: Path) -> list[str]:
    """What no orderly end leaves behind."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return [name for name in names if HALF_DONE.search(f"/{name}")]


def after_signal(attempt: Attempt) -> list[str]:
    """What the process still did."""
    index = next(position for position, line in enumerate(attempt.events) if line.startswith("pulled"))
    return list(attempt.events[index + 1 :])


def continue_as_printed(server: ForkServer, attempt: Attempt, folder: Path) -> Attempt:
    printed = PRINTED.search(attempt.shown)
    assert printed is not None, attempt.last_words
    continued = server.attempt(shlex.split(printed.group(1)), folder)
    assert continued.code == 0, continued.last_words
    return continued


def interrupt_and_continue(
    server: ForkServer, command: list[str], whole: Whole, folder: Path, phase: str, number: signal.Signals
) -> None:
    attempt = server.attempt(command, folder, triggers=[PHASES[phase].trigger(number, whole.attempt)])
    assert (attempt.code, attempt.is_hung) == (EXIT_CODES[number], False), attempt.last_words
    assert "Traceback" not in attempt.shown, attempt.last_words
    assert status_of(folder) == "interrupted"
    assert half_done(folder) == []
    assert not is_locked(the_run(folder) / "run.lock")
    done_since = after_signal(attempt)
    assert done_since.count("call step") == 0, "only the present step is finished"
    # A step may end with an evaluation and with samples that were due; what is under way is not waited for.
    if phase in ("evaluation", "last evaluation", "generation"):
        assert done_since.count("call token") + done_since.count("call loss") <= 1
    continue_as_printed(server, attempt, folder)
    assert_same(read_outcome(folder), whole.outcome)


@pytest.mark.parametrize(("phase", "number"), FAST)
def test_a_signal_ends_in_order_and_the_printed_command_continues(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path, phase: str, number: signal.Signals
) -> None:
    interrupt_and_continue(fork_server, command, whole, tmp_path, phase, number)


@pytest.mark.faults_full
@pytest.mark.parametrize(("phase", "number"), REST)
def test_every_signal_ends_every_phase_in_order(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path, phase: str, number: signal.Signals
) -> None:
    interrupt_and_continue(fork_server, command, whole, tmp_path, phase, number)


def test_an_interrupted_step_is_finished_and_saved_once(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path
) -> None:
    trigger = PHASES["step"].trigger(signal.SIGTERM, whole.attempt)
    attempt = fork_server.attempt(command, tmp_path, triggers=[trigger])
    record = json.loads((the_run(tmp_path) / "run.json").read_text())
    checkpoints = sorted(path.name for path in (the_run(tmp_path) / "checkpoints").iterdir())
    assert (record["step"], record["stop_reason"], checkpoints[-1]) == (17, "sigterm", "step-00000017")
    saves = [line for line in after_signal(attempt) if re.match(r"os\.rename .*/step-\d+\.partial$", line)]
    assert len(saves) == 1


def test_a_signal_in_the_last_save_finds_the_run_finished(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path
) -> None:
    trigger = Trigger(r"opened .*/step-00000030\.partial/manifest\.json$", 1, signal.SIGTERM)
    attempt = fork_server.attempt(command, tmp_path, triggers=[trigger])
    assert attempt.code == 0, attempt.last_words
    assert_same(read_outcome(tmp_path), whole.outcome)


@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_signal_before_a_run_has_begun_leaves_no_folder(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path, number: signal.Signals
) -> None:
    taking_the_lock = Moment(r"opened .*/run\.lock$").trigger(number, whole.attempt)
    attempt = fork_server.attempt(command, tmp_path, triggers=[taking_the_lock])
    assert (attempt.code, attempt.is_hung) == (EXIT_CODES[number], False), attempt.last_words
    assert attempt.last_words.endswith("interrupted\n")
    assert not list((tmp_path / "outputs/runs").iterdir())
    assert fork_server.attempt(command, tmp_path).code == 0
    assert_same(read_outcome(tmp_path), whole.outcome)


def test_an_evaluation_that_was_given_up_is_made_once_however_often_the_run_stops(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path
) -> None:
    """It is made at the next start, which is killed before it saves again."""
    interrupted = PHASES["evaluation"].trigger(signal.SIGTERM, whole.attempt)
    assert fork_server.attempt(command, tmp_path, triggers=[interrupted]).code == 143
    killed = Trigger(r"call step$", 1, signal.SIGKILL)
    assert fork_server.attempt(command, tmp_path, triggers=[killed]).code == -signal.SIGKILL
    again = fork_server.attempt(command, tmp_path)
    assert again.code == 0, again.last_words
    assert_same(read_outcome(tmp_path), whole.outcome)


def test_a_signal_before_there_is_a_run_leaves_nothing(
    fork_server: ForkServer, command: list[str], tmp_path: Path
) -> None:
    attempt = fork_server.attempt(command, tmp_path, triggers=[Trigger(r"os\.mkdir .*/runs$", 1, signal.SIGTERM)])
    assert attempt.code == 143
    assert "Traceback" not in attempt.last_words
    assert [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("second", "number"),
    [
        # The signals come in one step, which has several micro-batches; or in the save that follows the step.
        (Moment(r"call backward$", 2, after=r"call step$", nth=17), signal.SIGTERM),
        (Moment(r"opened .*/step-00000017\.partial/manifest\.json$"), signal.SIGINT),
    ],
    ids=["step", "save"],
)
def test_a_second_signal_leaves_at_once_without_harm(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path, second: Moment, number: signal.Signals
) -> None:
    triggers = [PHASES["step"].trigger(signal.SIGTERM, whole.attempt), second.trigger(number, whole.attempt)]
    attempt = fork_server.attempt(command, tmp_path, triggers=triggers)
    assert attempt.code == EXIT_CODES[number]
    assert "Traceback" not in attempt.last_words
    assert attempt.events[-1].startswith("pulled"), attempt.events[-3:]
    again = fork_server.attempt(command, tmp_path)
    assert again.code == 0, again.last_words
    assert_same(read_outcome(tmp_path), whole.outcome)


@pytest.fixture
def finished(whole: Whole, tmp_path: Path) -> Path:
    """A folder with a finished run."""
    shutil.copytree(whole.folder, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "moment", "number"),
    [
        (["task=evaluate"], Moment(r"call loss$"), signal.SIGTERM),
        (["task=evaluate"], Moment(r"call token$", 3), signal.SIGINT),
        (
            ["task=generate", "task.prompts=[Write a soup.]", "task.output=soup.jsonl"],
            Moment(r"call token$", 3),
            signal.SIGUSR1,
        ),
    ],
    ids=["evaluate, loss", "evaluate, generation", "generate"],
)
def test_a_task_that_reads_a_run_ends_at_once_and_leaves_it_as_it_was(
    fork_server: ForkServer, finished: Path, arguments: list[str], moment: Moment, number: signal.Signals
) -> None:
    before = read_outcome(finished)
    line = [*arguments, "hardware=cpu", "hardware.num_threads=1", "data.cache_dir=cache"]
    trigger = Trigger(moment.pattern, moment.occurrence, number)
    attempt = fork_server.attempt(line, finished, triggers=[trigger])
    assert attempt.code == EXIT_CODES[number], attempt.last_words
    assert "Traceback" not in attempt.last_words
    assert after_signal(attempt) == []
    assert_same(read_outcome(finished), before)
    assert not (finished / "soup.jsonl").exists()
    again = fork_server.attempt(line, finished)
    assert again.code == 0, again.last_words


def test_the_time_limit_ends_with_a_code_of_its_own_until_the_run_is_done(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path
) -> None:
    codes = []
    while not codes or codes[-1] == UNFINISHED:
        attempt = fork_server.attempt([*command, "training.stop_after_hours=0.0001"], tmp_path)
        codes.append(attempt.code)
        assert len(codes) <= 30, attempt.last_words
    assert codes == [*[UNFINISHED] * (len(codes) - 1), 0]
    assert len(codes) > 1
    assert_same(read_outcome(tmp_path), whole.outcome)


@pytest.mark.parametrize("phase", ["step", "generation"])
def test_a_run_that_hangs_says_where_and_ends_so_that_it_can_be_repeated(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path, phase: str
) -> None:
    line = [*command, "hardware.stall_timeout_minutes=0.05"]
    attempt = fork_server.attempt(line, tmp_path, triggers=[PHASES[phase].trigger(0, whole.attempt)])
    assert attempt.code == UNFINISHED, attempt.last_words
    assert "fault_child.py" in (the_run(tmp_path) / "stall.txt").read_text()
    (the_run(tmp_path) / "stall.txt").unlink()
    again = fork_server.attempt(command, tmp_path)
    assert again.code == 0, again.last_words
    assert_same(read_outcome(tmp_path), whole.outcome)


@pytest.mark.parametrize(("phase", "number"), [("data preparation", signal.SIGTERM), ("tokenizer", signal.SIGINT)])
def test_preparing_data_ends_at_once_and_leaves_nothing_half_done(
    fork_server: ForkServer, command: list[str], whole: Whole, tmp_path: Path, phase: str, number: signal.Signals
) -> None:
    line = preparing(command)
    attempt = fork_server.attempt(line, tmp_path, triggers=[PHASES[phase].trigger(number, whole.attempt)])
    assert (attempt.code, "Traceback" in attempt.shown) == (EXIT_CODES[number], False), attempt.last_words
    assert half_done(tmp_path) == []
    again = fork_server.attempt(line, tmp_path)
    assert again.code == 0, again.last_words
    assert read_cache(tmp_path) == read_cache(whole.folder)


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "recipe_exp")


def launched(name: str, command: list[str]) -> list[str]:
    if name == "torchrun":
        return [sys.executable, *TORCHRUN, *command]
    return recipe_exp_command([*command, "hardware.num_processes=2"])


def stop_after_step(line: list[str], folder: Path, step: int, number: signal.Signals, who: str) -> PlainProcess:
    """Starts a command, signals it once the checkpoint of a step is there, and waits until it is gone."""
    plain = PlainProcess(line, folder)
    try:
        assert plain.wait_until(lambda: any((folder / "outputs/runs").glob(f"*/checkpoints/step-{step:08d}"))), (
            plain.last_words
        )
        for process in plain.all() if who == "everybody" else [psutil.Process(plain.process.pid)]:
            process.send_signal(number)
        plain.wait_until_gone(MAX_SECONDS_TO_END)
    finally:
        if plain.living():
            plain.kill_all()
    return plain


@pytest.mark.faults_full
@pytest.mark.parametrize("number", EXIT_CODES)
@pytest.mark.parametrize("who", ["launcher", "everybody"])
def test_two_processes_stop_after_the_same_step(
    command: list[str], whole_of_two: WholeOfTwo, tmp_path: Path, number: signal.Signals, who: str
) -> None:
    plain = stop_after_step(launched("ours", command), tmp_path, 6, number, who)
    record = json.loads((the_run(tmp_path) / "run.json").read_text())
    saved = sorted((the_run(tmp_path) / "checkpoints").iterdir())[-1]
    assert (plain.process.wait(), record["status"]) == (EXIT_CODES[number], "interrupted"), plain.last_words
    assert (saved.name, half_done(tmp_path)) == (f"step-{record['step']:08d}", [])
    printed = PRINTED.search(plain.shown)
    assert printed is not None, plain.last_words
    again = strike(recipe_exp_command(shlex.split(printed.group(1))), tmp_path, None)
    assert again.code == 0, again.last_words
    assert_same(read_outcome(tmp_path), whole_of_two.outcome)


@pytest.mark.faults_full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_torchrun_that_is_stopped_saves_and_goes_on(
    command: list[str], whole_of_two: WholeOfTwo, tmp_path: Path, number: signal.Signals
) -> None:
    plain = stop_after_step(launched("torchrun", command), tmp_path, 6, number, "launcher")
    record = json.loads((the_run(tmp_path) / "run.json").read_text())
    saved = sorted((the_run(tmp_path) / "checkpoints").iterdir())[-1]
    assert record["status"] == "interrupted", plain.last_words
    assert (saved.name, half_done(tmp_path)) == (f"step-{record['step']:08d}", [])
    again = strike(launched("torchrun", command), tmp_path, None)
    assert again.code == 0, again.last_words
    assert_same(read_outcome(tmp_path), whole_of_two.outcome)


@pytest.mark.faults_full
@pytest.mark.parametrize("role", ROLES)
def test_torchrun_of_which_one_is_killed_ends_and_goes_on(
    command: list[str], whole_of_two: WholeOfTwo, tmp_path: Path, role: str
) -> None:
    fall = strike(launched("torchrun", command), tmp_path, Blow(role, 9, 0.1))
    assert fall.was_struck
    assert fall.seconds_to_end < MAX_SECONDS_TO_END
    again = strike(launched("torchrun", command), tmp_path, None)
    assert again.code == 0, again.last_words
    assert_same(read_outcome(tmp_path), whole_of_two.outcome)


@pytest.mark.faults_full
def test_processes_whose_launcher_was_killed_save_and_stop(command: list[str], tmp_path: Path) -> None:
    line = launched("ours", [*command, "training.max_steps=1000"])
    fall = strike(line, tmp_path, Blow("launcher", 9, 0.1))
    record = json.loads((the_run(tmp_path) / "run.json").read_text())
    saved = sorted((the_run(tmp_path) / "checkpoints").iterdir())[-1]
    assert fall.seconds_to_end < MAX_SECONDS_TO_END
    assert (record["status"], saved.name) == ("interrupted", f"step-{record['step']:08d}")
    assert record["step"] < 1000
    assert half_done(tmp_path) == []


@pytest.mark.faults_full
@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_signal_to_every_process_also_reaches_the_uploader_which_ends_its_work(
    command: list[str], whole: Whole, tmp_path: Path, number: signal.Signals
) -> None:
    """As Slurm and systemd do it: the signal goes to whoever belongs to the job."""
    line = recipe_exp_command([*command, "tracking=mlflow"])
    plain = stop_after_step(line, tmp_path, 6, number, "everybody")
    wait_for_uploaders(tmp_path)
    assert (plain.process.wait(), status_of(tmp_path)) == (EXIT_CODES[number], "interrupted"), plain.last_words
    assert_tracked_once(tmp_path, "KILLED")
    again = strike(line, tmp_path, None)
    assert again.code == 0, again.last_words
    assert_same(read_outcome(tmp_path), whole.outcome)
    assert_tracked_once(tmp_path, "FINISHED")
