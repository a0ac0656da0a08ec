from __future__ import annotations

import json
import multiprocessing
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipe_exp.errors import CheckpointError, RecipeExpError
from recipe_exp.tracking import RunFolder, find_run, is_alive, list_runs
from recipe_exp.tracking.journal import mark_interrupted


def create(output_dir: Path, run_name: str = "small", **fields: object) -> RunFolder:
    return RunFolder.create(output_dir, run_name=run_name, command=["train"], **fields)  # type: ignore[arg-type]


def test_a_created_folder_can_be_opened_and_describes_itself(output_dir: Path) -> None:
    folder = create(output_dir, parent_run_id="20260101-000000-aaaa")
    assert RunFolder.open(folder.path) == folder
    assert folder.path.parent == output_dir / "runs"
    assert re.fullmatch(r"\d{8}-\d{6}-[a-z2-7]{4}", folder.run_id)
    assert folder.path.name == f"{folder.run_id}-small"
    record = folder.read_record()
    assert record["schema_version"] == 2
    assert record["run_id"] == folder.run_id
    assert (record["run_name"], record["kind"], record["status"]) == ("small", "run", "running")
    assert record["host"] == socket.gethostname()
    assert record["parent_run_id"] == "20260101-000000-aaaa"
    assert record["created"] <= record["updated"]
    assert record["mlflow"] == {}


def test_a_sweep_has_its_own_place(output_dir: Path) -> None:
    sweep = create(output_dir, kind="sweep")
    assert sweep.path.parent == output_dir / "sweeps"
    assert list_runs(output_dir, "run") == []
    assert list_runs(output_dir) == [sweep]


def test_the_command_is_stored_without_secrets(output_dir: Path) -> None:
    folder = RunFolder.create(output_dir, run_name="x", command=["train", "+hub_token=abcdef123456"])
    assert "abcdef123456" not in folder.record_path.read_text()
    assert folder.read_record()["command"][0] == "train"


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run_name=st.text(max_size=400))
def test_no_name_leaves_the_runs_folder(tmp_path: Path, run_name: str) -> None:
    folder = create(tmp_path, run_name)
    assert folder.path.resolve().parent == (tmp_path / "runs").resolve()
    assert len(folder.path.name.encode()) < 120
    assert RunFolder.open(folder.path).run_id == folder.run_id


@pytest.mark.parametrize("run_name", ["../../escape", "a/b", "nul\0byte", "x" * 5000, "", "..", "  ", "élan ½"])
def test_hostile_names(output_dir: Path, run_name: str) -> None:
    name = create(output_dir, run_name).path.name
    assert re.fullmatch(r"[A-Za-z0-9_.=,-]+", name)
    assert ".." not in name


def test_folders_made_at_the_same_time_differ(output_dir: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: create(output_dir), range(64)))
    assert len({folder.run_id for folder in folders}) == 64
    assert len(list_runs(output_dir)) == 64


def test_an_id_that_is_taken_is_not_given_again(output_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["20260101-000000-aaaa", "20260101-000000-aaaa", "20260101-000000-bbbb"])
    monkeypatch.setattr("recipe_exp.tracking.run_folder._new_run_id", lambda: next(ids))
    assert create(output_dir, "one").run_id == "20260101-000000-aaaa"
    assert create(output_dir, "two").run_id == "20260101-000000-bbbb"


def test_an_output_dir_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeExpError, match=r"output_dir=.*set output_dir") as caught:
        create(tmp_path / "file" / "outputs")
    assert "\n" not in str(caught.value)


def test_the_second_owner_is_told_who_the_first_is(folder: RunFolder) -> None:
    code = (
        "import sys, time; from pathlib import Path; from recipe_exp.tracking import RunFolder\n"
        "with RunFolder.open(Path(sys.argv[1])).lock():\n print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert is_alive(folder)
    expected = f"process {holder.pid} on {socket.gethostname()}"
    with pytest.raises(CheckpointError, match=expected), folder.lock():
        pass
    assert not mark_interrupted(folder)
    holder.kill()
    holder.wait()
    assert not is_alive(folder)
    assert folder.read_record()["status"] == "running"
    assert mark_interrupted(folder)
    assert folder.read_record()["status"] == "interrupted"
    with folder.lock():
        assert is_alive(folder)


def test_looking_whether_a_run_is_alive_does_not_refuse_its_lock(folder: RunFolder) -> None:
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            is_alive(folder)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(50):
            with folder.lock():
                pass
    finally:
        stop.set()
        thread.join()


def _count_up(path: Path, name: str) -> None:
    folder = RunFolder.open(path)
    for number in range(20):
        folder.update_record(**{name: number})


def test_fields_of_several_writers_are_all_kept(folder: RunFolder) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_count_up, args=(folder.path, name)) for name in ("total_steps", "step")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    record = folder.read_record()
    assert (record["total_steps"], record["step"], record["run_name"]) == (19, 19, "small")


def test_a_damaged_record_is_one_line(folder: RunFolder) -> None:
    folder.record_path.write_text('{"run_id": ')
    with pytest.raises(CheckpointError, match=r"run\.json: cannot be read"):
        folder.read_record()
    assert list_runs(folder.output_dir) == []


def make_with_id(output_dir: Path, run_id: str, run_name: str, created: float = 0.0) -> RunFolder:
    path = output_dir / "runs" / f"{run_id}-{run_name}"
    path.mkdir(parents=True)
    record = {"run_id": run_id, "run_name": run_name, "created": created}
    (path / "run.json").write_text(json.dumps(record))
    return RunFolder.open(path)


@pytest.fixture
def three_runs(output_dir: Path) -> list[RunFolder]:
    return [
        make_with_id(output_dir, "20260102-000000-zzzz", "base", 10.0),
        make_with_id(output_dir, "20260102-000000-aaaa", "lora", 20.0),
        make_with_id(output_dir, "20260101-000000-mmmm", "base", 5.0),
    ]


def test_runs_are_listed_newest_first_within_one_second_too(output_dir: Path, three_runs: list[RunFolder]) -> None:
    (output_dir / "runs" / "not-a-run").mkdir()
    assert list_runs(output_dir) == [three_runs[1], three_runs[0], three_runs[2]]


def test_a_run_is_found_by_every_kind_of_reference(output_dir: Path, three_runs: list[RunFolder]) -> None:
    lora = three_runs[1]
    references = ["latest", "lora", lora.run_id, "20260102-000000-a", lora.path.name, str(lora.path)]
    assert [find_run(output_dir, reference) for reference in references] == [lora] * len(references)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("base", r"2 runs answer to it \(20260102-000000-zzzz, 20260101-000000-mmmm\)"),
        ("20260102", "2 runs answer to it"),
        ("lorra", "nearest: lora"),
        ("something else", "newest: 20260102-000000-aaaa-lora"),
        ("", "no such run"),
        ("../runs", "no such run"),
    ],
)
def test_an_unclear_reference_is_one_line(
    output_dir: Path, three_runs: list[RunFolder], reference: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        find_run(output_dir, reference)
    assert "\n" not in str(caught.value)


def test_without_any_run_the_error_says_so(output_dir: Path) -> None:
    with pytest.raises(CheckpointError, match="there are no runs under"):
        find_run(output_dir, "latest")


def test_a_run_that_cannot_be_read_is_in_no_list_and_says_why_when_it_is_named(output_dir: Path) -> None:
    later, broken, sound = create(output_dir), create(output_dir), create(output_dir)
    later.record_path.write_text(json.dumps(later.read_record() | {"schema_version": 99}))
    broken.record_path.write_text("{")
    assert list_runs(output_dir) == [sound]
    with pytest.raises(CheckpointError, match="of schema version 99"):
        find_run(output_dir, later.run_id)
    with pytest.raises(CheckpointError, match="cannot be read"):
        find_run(output_dir, broken.path.name)
    with pytest.raises(CheckpointError, match="of schema version 99"):
        RunFolder.open(later.path)


def test_an_earlier_run_is_stored_as_a_present_one_once_it_is_written_to(output_dir: Path) -> None:
    folder = create(output_dir)
    earlier = {**folder.read_record(), "schema_version": 1, "total_steps": 7}
    folder.record_path.write_text(json.dumps(earlier))
    assert folder.read_record()["schedule_steps"] == 7
    assert json.loads(folder.record_path.read_text()) == earlier, "reading writes nothing"
    folder.update_record(step=3)
    stored = json.loads(folder.record_path.read_text())
    assert (stored["schema_version"], stored["schedule_steps"], stored["step"]) == (2, 7, 3)
