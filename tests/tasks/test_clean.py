"""`task=clean`: what takes space, and that only what is asked for and may go is removed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recipe_exp.__main__ import main
from recipe_exp.files import file_lock
from recipe_exp.tasks.inventory import Inventory, Space
from recipe_exp.tracking import RunFolder, list_runs
from recipe_exp.tracking.sending_lock import uploader_lock_path

MIB = 1024**2
CACHE = "ab" * 16


class House:
    """An `output_dir` with runs in it, made without training."""

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir

    def run(
        self,
        name: str,
        status: str = "finished",
        steps: tuple[int, ...] = (2, 4, 6),
        best: tuple[int, ...] = (4,),
        *,
        kind: str = "run",
        parent: str | None = None,
        host: str | None = None,
    ) -> RunFolder:
        """A run with checkpoints of 3 MiB; the best one shares 1 MiB of weights with `model/`."""
        folder = RunFolder.create(self.output_dir, run_name=name, kind=kind, command=["x"], parent_run_id=parent)
        for step in steps:
            path = folder.checkpoints_path / f"step-{step:08d}"
            path.mkdir(parents=True)
            (path / "model.safetensors").write_bytes(bytes(MIB))
            (path / "optimizer.safetensors").write_bytes(bytes(2 * MIB))
            ranking = [[ranked, 1.0] for ranked in best if ranked <= step]
            (path / "state.json").write_text(json.dumps({"callbacks": {"CheckpointCallback": {"ranking": ranking}}}))
        fields = {"status": status, "data": {"fingerprint": CACHE + "cd" * 16}}
        if steps and best:
            folder.model_path.mkdir()
            weights = folder.checkpoints_path / f"step-{best[0]:08d}" / "model.safetensors"
            os.link(weights, folder.model_path / "model.safetensors")
            fields["best"] = {"step": best[0], "metric": "eval/loss", "value": 1.0}
        folder.update_record(**fields, **({"host": host, "boot": "another boot"} if host else {}))
        return folder

    def cache(self, name: str) -> Path:
        path = self.output_dir / "cache" / name
        path.mkdir(parents=True)
        (path / "card.json").write_text("{}")
        (path / "tokens.u16").write_bytes(bytes(MIB))
        return path

    def clean(self, *arguments: str) -> int:
        return main(["task=clean", f"output_dir={self.output_dir}", *arguments])

    def steps(self, folder: RunFolder) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in folder.checkpoints_path.glob("step-*"))

    def inventory(self) -> Inventory:
        return Inventory.of(self.output_dir, self.output_dir / "cache")

    def files(self) -> dict[str, bytes]:
        paths = (path for path in self.output_dir.rglob("*") if path.is_file() and "lock" not in path.name)
        return {str(path): path.read_bytes() for path in paths}


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "outputs")


@contextmanager
def another_process(code: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Runs code that prints a line when it is ready and waits for its input to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys\n{code}", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(30)


HOLD = """
from pathlib import Path
from recipe_exp.files import file_lock
with file_lock(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


# Looking


def test_looking_shows_every_run_and_changes_nothing(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = house.run("lr", steps=(), kind="sweep")
    runs = [house.run("kept"), house.run("lr=1", parent=sweep.run_id), house.run("stopped", "interrupted"), sweep]
    house.cache(CACHE)
    before = house.files()
    assert house.clean() == 0
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in printed.splitlines() if line.strip()}
    kept, trial, stopped, parent = (lines[run.run_id] for run in runs)
    assert kept[1:] == ["run", "finished", "now", "9.0M", "<0.1M", "6.0M", "9.0M"]
    assert trial[1:3] == ["trial", "finished"]
    assert stopped[1:] == ["run", "interrupted", "now", "9.0M", "<0.1M", "-", "-"]
    assert parent[1:3] == ["sweep", "finished"]
    assert parent[-2:] == ["-", "-"]
    assert f"1.0M  token cache {CACHE[:12]}, of 4 runs" in printed
    assert "28M  in all" in printed
    assert "12 MiB can go" in printed
    assert max(len(line.rstrip()) for line in printed.splitlines() if "python -m" not in line) <= 82
    assert house.files() == before


def test_looking_takes_no_pytorch(house: House) -> None:
    house.run("kept")
    code = (
        "import sys; from recipe_exp.__main__ import main; main(sys.argv[1:]);"
        "print({'torch', 'mlflow', 'transformers'} & set(sys.modules))"
    )
    arguments = ["task=clean", f"output_dir={house.output_dir}"]
    asked = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert asked.stdout.endswith("set()\n")


def test_an_empty_folder_has_nothing(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    assert house.clean() == 0
    assert house.clean("task.delete=true") == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert not house.output_dir.exists()


def test_files_with_several_names_are_counted_once(house: House) -> None:
    folder = house.run("kept", steps=(2, 4))
    (stored,) = house.inventory().runs
    small = sum(path.stat().st_size for path in folder.path.rglob("*.json"))
    assert stored.checkpoint_space.num_bytes == 6 * MIB + sum(
        path.stat().st_size for path in folder.checkpoints_path.rglob("*.json")
    )
    assert stored.space.num_bytes == stored.space.freed_bytes
    assert 6 * MIB + small <= stored.space.num_bytes < 6 * MIB + small + 4096
    assert stored.rest_bytes < 8192, "the model's weights are those of the checkpoint"


def test_what_the_tracker_shares_is_not_freed(house: House) -> None:
    folder = house.run("kept", steps=(2,), best=(2,))
    artifacts = house.output_dir / "mlartifacts"
    artifacts.mkdir()
    os.link(folder.model_path / "model.safetensors", artifacts / "model.safetensors")
    (artifacts / "own").write_bytes(bytes(MIB // 2))
    inventory = house.inventory()
    (stored,) = inventory.runs
    assert stored.space.num_bytes - stored.space.freed_bytes == MIB
    assert Space(inventory.tracker).bytes_beyond([stored.space]) == MIB // 2


# Checkpoints


def test_checkpoints_of_finished_runs_go_but_the_best(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    kept = house.run("kept")
    several = house.run("several", steps=(2, 4, 6, 8), best=(4, 6))
    unjudged = house.run("unjudged", best=())
    others = [house.run("stopped", "interrupted"), house.run("broken", "failed"), house.run("lost", "running")]
    before = Space([house.output_dir]).num_bytes
    assert house.clean("task.delete=true") == 0
    assert (house.steps(kept), house.steps(several), house.steps(unjudged)) == ([4], [4, 6], [6])
    assert all(house.steps(folder) == [2, 4, 6] for folder in others)
    assert (kept.model_path / "model.safetensors").stat().st_nlink == 2
    assert 18 * MIB <= before - Space([house.output_dir]).num_bytes < 18 * MIB + 8192
    assert "18 MiB are free again" in capsys.readouterr().out
    assert not list(house.output_dir.rglob("*removed*"))


def test_only_the_runs_that_are_named_lose_checkpoints(house: House) -> None:
    named, other = house.run("named"), house.run("other")
    assert house.clean("task.runs=[named]", "task.delete=true") == 0
    assert (house.steps(named), house.steps(other)) == ([4], [2, 4, 6])


def test_one_checkpoint_is_removed_by_its_folder(house: House) -> None:
    folder = house.run("kept")
    path = folder.checkpoints_path / "step-00000002"
    assert house.clean(f"task.runs=['{path}']", "task.delete=true") == 0
    assert house.steps(folder) == [4, 6]


# What must stay


Refused = Callable[[House], "tuple[str, str]"]


def of(make: Callable[[House], RunFolder]) -> Refused:
    return lambda house: ((folder := make(house)).run_id, str(folder.path))


@pytest.mark.parametrize("what", ["runs", "checkpoints"])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (of(lambda house: house.run("x", "interrupted")), "interrupted, so that resume="),
        (of(lambda house: house.run("x", "failed")), "failed, so that resume="),
        (of(lambda house: house.run("x", "running")), "interrupted, so that resume="),
        (of(lambda house: house.run("x", "running", host="elsewhere")), "running on elsewhere"),
        (of(lambda house: house.run("x", "interrupted", steps=())), "interrupted, so that resume="),
    ],
    ids=["interrupted", "failed", "killed", "elsewhere", "early"],
)
def test_an_unfinished_run_stays_and_nothing_else_goes_either(
    house: House, capsys: pytest.CaptureFixture[str], make: Refused, reason: str, what: str
) -> None:
    house.run("finished")
    name, _ = make(house)
    before = house.files()
    assert house.clean(f"task.what={what}", f"task.runs=[finished,{name}]", "task.delete=true") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {name}: {reason}")
    assert line.endswith("; nothing was removed")
    assert house.files() == before


def test_a_parent_stays_as_long_as_it_has_trials(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = house.run("lr", steps=(), kind="sweep")
    trial = house.run("lr=1", parent=sweep.run_id)
    request = ("task.what=runs", "task.delete=true")
    for names in (sweep.run_id, f"{sweep.run_id},{trial.run_id}"):
        assert house.clean(*request, f"task.runs=[{names}]") == 2
        assert "the parent of 1 trials that are still here" in capsys.readouterr().err
    assert trial.path.is_dir()
    assert house.clean(*request, f"task.runs=[{trial.run_id}]") == 0
    assert house.clean(*request, f"task.runs=[{sweep.run_id}]") == 0
    assert list_runs(house.output_dir) == []


@pytest.mark.parametrize("what", ["runs", "checkpoints"])
def test_a_run_in_use_stays(house: House, capsys: pytest.CaptureFixture[str], what: str) -> None:
    folder = house.run("busy")
    request = (f"task.what={what}", "task.runs=[busy]", "task.delete=true")
    for lock, reason in ((folder.lock_path, "in use by a process"), (uploader_lock_path(folder), "still being sent")):
        with another_process(HOLD, lock):
            assert house.clean(*request) == 2
            assert reason in capsys.readouterr().err
            assert house.clean("task.delete=true") == 0, "unnamed, it is passed over"
            assert house.steps(folder) == [2, 4, 6]
    assert house.clean(*request) == 0
    assert house.steps(folder) == ([] if what == "runs" else [4])


def test_the_best_checkpoint_stays(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    folder = house.run("kept", best=(4, 6))
    for step in (4, 6):
        path = folder.checkpoints_path / f"step-{step:08d}"
        other = folder.checkpoints_path / "step-00000002"
        assert house.clean(f"task.runs=['{other}','{path}']", "task.delete=true") == 2
        assert capsys.readouterr().err == f"error: {path}: the best checkpoint of its run; nothing was removed\n"
    assert house.steps(folder) == [2, 4, 6]


def test_every_reason_is_said_at_once(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = house.run("a", "interrupted"), house.run("b", "failed")
    assert house.clean("task.what=runs", "task.runs=[a,b,a]", "task.delete=true") == 2
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == [
        f"{f.run_id}:" for f in (first, second)
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["task.what=runs", "task.delete=true"], "task.what=runs: whole runs are removed by name only"),
        (["task.what=leftovers", "task.runs=[kept]"], "task.runs: leftovers are removed everywhere"),
        (["task.runs=[nobody]", "task.delete=true"], "run nobody: no such run"),
        (["task.runs=['outputs/runs/x/checkpoints/step-00000002']"], "no such run"),
        (["task.what=everything"], "task.what=everything: must be one of"),
    ],
)
def test_a_request_that_cannot_be_meant(
    house: House, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    folder = house.run("kept")
    assert house.clean(*arguments) == 2
    assert said in capsys.readouterr().err
    assert house.steps(folder) == [2, 4, 6]


# Whole runs


def test_whole_runs_go_by_name(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    house.run("old")
    house.run("broken", "failed", steps=())
    kept = house.run("kept")
    assert house.clean("task.what=runs", "task.runs=[old,broken]") == 0
    assert "task.what=runs 'task.runs=[old,broken]' task.delete=true" in capsys.readouterr().out
    assert len(list_runs(house.output_dir)) == 3
    assert house.clean("task.what=runs", "task.runs=[old,broken]", "task.delete=true") == 0
    assert [folder.run_id for folder in list_runs(house.output_dir)] == [kept.run_id]
    assert sorted(path.name for path in house.output_dir.iterdir()) == ["runs"]


def test_a_run_that_is_reached_through_a_link_is_removed_itself(house: House, tmp_path: Path) -> None:
    folder = house.run("old")
    (tmp_path / "link").symlink_to(folder.path)
    assert house.clean("task.what=runs", f"task.runs=['{tmp_path / 'link'}']", "task.delete=true") == 0
    assert list_runs(house.output_dir) == []


KILLED = """
import os, shutil, signal
from pathlib import Path
def stop(path):
    next(file for file in sorted(Path(path).rglob("*")) if file.is_file()).unlink()
    os.kill(os.getpid(), signal.SIGKILL)
shutil.rmtree = stop
from recipe_exp.__main__ import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("what", ["runs", "checkpoints", "caches"])
def test_what_a_kill_leaves_is_no_run_and_no_checkpoint_and_is_cleaned(house: House, what: str) -> None:
    house.cache("cd" * 16)
    folder = house.run("old", steps=(2, 4))
    names = ["task.runs=[old]"] if what == "runs" else []
    arguments = ["task=clean", f"output_dir={house.output_dir}", f"task.what={what}", "task.delete=true", *names]
    killed = subprocess.run([sys.executable, "-c", f"import sys\n{KILLED}", *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    inventory = house.inventory()
    assert len(inventory.leftovers) == 1
    assert not inventory.strangers
    assert len(inventory.runs) == (0 if what == "runs" else 1)
    assert len(inventory.caches) == (0 if what == "caches" else 1)
    if what == "checkpoints":
        assert [path.name for path in inventory.runs[0].checkpoints] == ["step-00000004"]
    assert house.clean("task.what=leftovers", "task.delete=true") == 0
    assert not house.inventory().leftovers
    assert not [path for path in house.output_dir.rglob("*") if "removed" in path.name]
    assert folder.path.exists() == (what != "runs")


@pytest.mark.parametrize("request_", [["task.what=runs", "task.runs=[old]"], ["task.what=checkpoints"]])
def test_it_works_where_not_a_byte_is_free(house: House, monkeypatch: pytest.MonkeyPatch, request_: list[str]) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = house.run("old")
    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(os, "write", refuse)
    monkeypatch.setattr(os, "fsync", refuse)
    assert house.clean(*request_, "task.delete=true") == 0
    assert house.steps(folder) == ([] if "task.what=runs" in request_ else [4])


# Leftovers and caches


def make_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "file").write_bytes(bytes(MIB))
    return path


def test_what_interrupted_saves_and_builds_left_goes(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    folder, bare = house.run("kept"), house.run("bare", "interrupted", best=())
    leftovers = [
        make_folder(folder.checkpoints_path / "step-00000008.partial"),
        make_folder(folder.path / "model.partial"),
        make_folder(folder.path / "model.previous"),
        make_folder(house.output_dir / "cache" / f"{CACHE}.building"),
    ]
    only_copy = make_folder(bare.path / "model.previous")
    assert house.clean() == 0
    assert capsys.readouterr().out.count("left over: ") == 4
    assert house.clean("task.what=leftovers", "task.delete=true") == 0
    assert [path.exists() for path in [*leftovers, only_copy]] == [False, False, False, False, True]
    assert house.steps(folder) == [2, 4, 6]


def test_a_save_and_a_build_in_progress_are_no_leftovers(house: House) -> None:
    folder = house.run("busy", "running")
    saving = make_folder(folder.checkpoints_path / "step-00000008.partial")
    building = make_folder(house.output_dir / "cache" / f"{CACHE}.building")
    with another_process(HOLD, folder.lock_path), file_lock(building.with_suffix(".lock")):
        assert house.inventory().leftovers == ()
        assert house.clean("task.what=leftovers", "task.delete=true") == 0
        assert saving.exists()
        assert building.exists()


def test_caches_go_that_no_run_was_trained_on(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    house.run("kept")
    used, unused, busy = house.cache(CACHE), house.cache("cd" * 16), house.cache("ef" * 16)
    assert house.clean() == 0
    printed = capsys.readouterr().out
    assert "token cache abababababab, of 1 run\n" in "\n".join(line.rstrip() for line in printed.splitlines())
    assert "token cache cdcdcdcdcdcd, of no run here" in printed
    with file_lock(busy.with_name(f"{busy.name}.lock")):
        assert house.clean("task.what=caches", "task.delete=true") == 0
    assert (used.exists(), unused.exists(), busy.exists()) == (True, False, True)


def test_a_folder_that_is_no_run_is_shown_and_stays(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    folder = house.run("damaged")
    folder.record_path.write_text("{")
    for what in ("checkpoints", "leftovers", "caches"):
        assert house.clean(f"task.what={what}", "task.delete=true") == 0
    capsys.readouterr()
    assert house.clean() == 0
    assert f"9.0M  not a run: runs/{folder.path.name}"[:60] in capsys.readouterr().out
    assert house.steps(folder) == [2, 4, 6]


# A run of training itself


def test_a_trained_run_keeps_its_results(small_run: list[str], tmp_path: Path) -> None:
    overrides = [*small_run, "training.keep_best_n_checkpoints=1", "run_name=mine"]
    assert main([*overrides, "training.max_steps=6"]) == 0
    (folder,) = list_runs(tmp_path / "outputs")
    best = folder.read_record()["best"]["step"]
    make_folder(folder.checkpoints_path / f"step-{best + 100:08d}.partial")
    spare = folder.checkpoints_path / f"step-{best + 1:08d}"
    make_folder(spare)
    assert main(["task=clean", f"output_dir={tmp_path / 'outputs'}", "task.delete=true"]) == 0
    assert not spare.exists()
    assert [path.name for path in folder.checkpoints_path.glob("step-*[0-9]")] == [f"step-{best:08d}"]
    where = f"output_dir={tmp_path / 'outputs'}"
    assert main(["task=evaluate", "task.run=mine", where, "hardware=cpu", "hardware.num_threads=1"]) == 0
