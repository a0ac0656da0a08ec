"""`task=clean`: what takes space under `output_dir`, and freeing some of it on request."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.task import CleanTask
from recipe_exp.errors import CheckpointError, ConfigError
from recipe_exp.files import LockedError, file_lock, flush_to_disk, size_text
from recipe_exp.tasks.inventory import REMOVED, Inventory, Space, StoredFolder
from recipe_exp.tasks.places import cache_dir_of
from recipe_exp.tracking import RunFolder, find_run

_STYLES = {"finished": "green", "failed": "red", "interrupted": "yellow", "running": "cyan"}
_WIDTH_WITH_NAMES = 110


@dataclass(frozen=True)
class Removal:
    """What a command asks to remove, all of it or nothing.

    Attributes:
        paths: folders.
        locks: folders of the runs concerned, which no other process may touch meanwhile.
        aside: where a folder is put before its content is removed, so that half of one never bears its name.
    """

    paths: tuple[Path, ...]
    locks: tuple[RunFolder, ...]
    aside: Callable[[Path], Path]


def run(config: ExperimentConfig) -> int:
    """Prints what takes space, removes what is asked for, and returns 0.

    Raises:
        ConfigError: the request contradicts itself.
        CheckpointError: something that is asked for must stay, or is not there; nothing is removed then.
    """
    assert isinstance(config.task, CleanTask)
    output_dir = Path(config.output_dir).expanduser()
    inventory = Inventory.of(output_dir, cache_dir_of(config))
    removal = plan_removal(config.task, inventory, output_dir)
    console = Console(highlight=False)
    freed = size_text(Space(removal.paths).freed_bytes)
    if not config.task.delete:
        console.print(inventory_view(inventory, console.width))
        place = "" if config.output_dir == "outputs" else f" output_dir={shlex.quote(config.output_dir)}"
        console.print(_advice(config.task, removal, freed, place), soft_wrap=True, markup=False)
        return 0
    remove(removal)
    for path in removal.paths:
        console.print(f"removed {path}", soft_wrap=True, markup=False)
    console.print(f"{freed} are free again" if removal.paths else "there is nothing to remove")
    return 0


def plan_removal(task: CleanTask, inventory: Inventory, output_dir: Path) -> Removal:
    """Returns what the task's keys ask for.

    Raises:
        ConfigError: the keys do not go together.
        CheckpointError: with a line for each run or checkpoint that must stay or is not there.
    """
    if task.runs and task.what in ("leftovers", "caches"):
        raise ConfigError([f"task.runs: {task.what} are removed everywhere or not at all; leave task.runs out"])
    match task.what:
        case "leftovers":
            return Removal(inventory.leftovers, (), _aside_in_place)
        case "caches":
            unused = tuple(cache.path for cache in inventory.caches if not cache.num_runs)
            return Removal(unused, (), lambda path: path.with_name(path.name + REMOVED))
        case "checkpoints":
            return _plan_checkpoints(task.runs, inventory, output_dir)
        case "runs":
            if not task.runs:
                if task.delete:
                    raise ConfigError(["task.what=runs: whole runs are removed by name only; give task.runs=[RUN,...]"])
                return Removal((), (), _aside_in_place)
            named = [_named_run(name, inventory, output_dir) for name in dict.fromkeys(task.runs)]
            _refuse([run.refusal_of_run() for run in named])
            return Removal(tuple(r.folder.path for r in named), tuple(r.folder for r in named), _aside_under_output_dir)


def _plan_checkpoints(names: Sequence[str], inventory: Inventory, output_dir: Path) -> Removal:
    paths: dict[Path, RunFolder] = {}
    refusals: list[str | None] = []
    for run in inventory.runs if not names else ():
        paths |= dict.fromkeys(run.spare_checkpoints, run.folder)
    for name in dict.fromkeys(names):
        checkpoint = Path(name).resolve()
        is_one = checkpoint.parent.name == "checkpoints" and checkpoint.name.startswith("step-")
        run = _named_run(str(checkpoint.parents[1]) if is_one else name, inventory, output_dir)
        refusals.append(run.refusal_of_checkpoints())
        if is_one and checkpoint in [path.resolve() for path in run.best_checkpoints]:
            refusals.append(f"{name}: the best checkpoint of its run")
        elif is_one and not checkpoint.is_dir():
            refusals.append(f"{name}: there is no such checkpoint")
        paths |= dict.fromkeys([checkpoint] if is_one else run.spare_checkpoints, run.folder)
    _refuse(refusals)
    # Training's next look at the folder would remove what a kill leaves of them, going by this name.
    return Removal(tuple(paths), tuple(dict.fromkeys(paths.values())), _aside_in_place)


def _named_run(name: str, inventory: Inventory, output_dir: Path) -> StoredFolder:
    folder = find_run(output_dir, name)
    path = folder.path.resolve()
    stored = next((run for run in inventory.runs if run.folder.path.resolve() == path), None)
    return stored or StoredFolder(RunFolder(path, folder.run_id), folder.read_record())


def _refuse(reasons: Sequence[str | None]) -> None:
    lines = [f"{line}; nothing was removed" for line in dict.fromkeys(reasons) if line is not None]
    if lines:
        raise CheckpointError("\n".join(lines))


def remove(removal: Removal) -> None:
    """Removes the folders: each is renamed, as a whole, before any file of it goes.

    Raises:
        CheckpointError: a run came into use meanwhile (nothing is removed then), or the disk refuses.
    """
    with ExitStack() as locks:
        for folder in removal.locks:
            locks.enter_context(folder.lock())
        _refuse([_refusal_now(folder, removal) for folder in removal.locks])
        for path in removal.paths:
            try:
                with file_lock(path.with_suffix(".lock"), timeout_seconds=0.0) if _is_cache(path) else ExitStack():
                    _remove_folder(path, removal.aside(path))
            except LockedError:
                continue  # being built again
            except OSError as error:
                raise CheckpointError(f"{path}: cannot be removed ({error.strerror or error})") from None


def _refusal_now(folder: RunFolder, removal: Removal) -> str | None:
    """What a run became between the look at it and its lock."""
    status = folder.read_record().get("status")
    is_whole = folder.path in removal.paths
    has_checkpoints = any(folder.checkpoints_path.glob("step-*"))
    if status == "finished" or (is_whole and (folder.path.parent.name == "sweeps" or not has_checkpoints)):
        return None
    return f"{folder.run_id}: {status} since a moment ago"


def _is_cache(path: Path) -> bool:
    return (path / "card.json").is_file()


def _remove_folder(path: Path, aside: Path) -> None:
    if aside != path:
        if aside.exists():  # left by an earlier removal of the same name
            shutil.rmtree(aside)
        path.rename(aside)
        flush_to_disk(path.parent)
        path = aside
    shutil.rmtree(path)


def _aside_in_place(path: Path) -> Path:
    """A checkpoint's name for one that is being removed; what is a leftover already keeps its name."""
    return path.with_name(f"{path.name}{REMOVED}.partial") if path.name.removeprefix("step-").isdecimal() else path


def _aside_under_output_dir(path: Path) -> Path:
    """Beside `runs/` and `sweeps/`, where nobody takes it for a run; a folder for it might find no room on the disk."""
    return path.parent.parent / f"{REMOVED}-{path.name}"


def inventory_view(inventory: Inventory, width: int) -> Padding:
    """Returns the table of everything that takes space, for a terminal of this width."""
    view = Table.grid()
    if inventory.runs:
        view.add_row(_run_table(inventory, with_names=width >= _WIDTH_WITH_NAMES))
        view.add_row("")
    view.add_row(_other_table(inventory))
    return Padding(view, (1, 0, 1, 1))


def _run_table(inventory: Inventory, *, with_names: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for name in ("run", "kind", "status", "age"):
        table.add_column(name, no_wrap=True, justify="right" if name == "age" else "left")
    for name in ("checkpoints", "rest", "spare", "whole"):
        table.add_column(name, no_wrap=True, justify="right")
    if with_names:
        table.add_column("name", no_wrap=True, overflow="ellipsis")
    now = time.time()
    for run in inventory.runs:
        may_go = run.refusal_of_run() is None
        cells: list[Text | str] = [
            Text(run.folder.run_id),
            Text(run.kind),
            Text(run.status, style=_STYLES.get(run.status, "")),
            _age(now - float(run.record.get("created", now))),
            _size(run.checkpoint_space.num_bytes),
            _size(run.rest_bytes),
            _size(Space(run.spare_checkpoints).freed_bytes),
            _size(run.space.freed_bytes) if may_go else "-",
        ]
        table.add_row(*cells, *([Text(str(run.record.get("run_name", "")), style="dim")] if with_names else []))
    return table


def _other_table(inventory: Inventory) -> Table:
    """Caches, the tracker, leftovers, and the sum of everything."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    runs = [run.space for run in inventory.runs]
    for cache in inventory.caches:
        users = f"of {cache.num_runs} run{'s' * (cache.num_runs != 1)}" if cache.num_runs else "of no run here"
        table.add_row(
            _size(cache.space.num_bytes),
            Text(f"{cache.kind} {cache.path.name.removeprefix('prepared-')[:12]}, {users}"),
        )
    for path in inventory.leftovers:
        table.add_row(_size(Space([path]).num_bytes), Text(f"left over: {_short(path)}", style="yellow"))
    for path in inventory.strangers:
        table.add_row(_size(Space([path]).num_bytes), Text(f"not a run: {_short(path)}", style="yellow"))
    if inventory.tracker:
        table.add_row(_size(Space(inventory.tracker).bytes_beyond(runs)), "MLflow, beyond what it shares with runs")
    everything = [
        *(run.folder.path for run in inventory.runs),
        *(cache.path for cache in inventory.caches),
        *(*inventory.leftovers, *inventory.strangers, *inventory.tracker),
    ]
    table.add_row(Text(_size(Space(everything).num_bytes), style="bold"), Text("in all", style="bold"))
    return table


def _advice(task: CleanTask, removal: Removal, freed: str, place: str) -> str:
    """Says what the request would free and how to make it happen."""
    command = f"python -m recipe_exp task=clean task.what={task.what}"
    end = f"task.delete=true{place}"
    if task.what == "runs" and not task.runs:
        return f"removing a run frees what stands under `whole`:\n  {command} task.runs=[RUN] {end}"
    if task.runs:
        command += " " + shlex.quote(f"task.runs=[{','.join(task.runs)}]")
    what = {
        "checkpoints": "checkpoints of finished runs that are not among the best (`spare`)",
        "runs": "the runs that are named",
        "leftovers": "what interrupted saves, builds and removals left",
        "caches": "tokens and prepared data that no run here was trained on; they are made again when they are needed",
    }[task.what]
    if not removal.paths:
        return f"nothing to remove: {what}"
    return f"{freed} can go: {what}\n  {command} {end}"


def _short(path: Path) -> str:
    return "/".join(path.parts[-2:])


def _size(num_bytes: int) -> str:
    """A size in six characters: eight columns fit beside each other on a terminal of 80."""
    mib = num_bytes / 1024**2
    if mib < 0.1:
        return "<0.1M" if num_bytes else "-"
    return f"{mib / 1024:.1f}G" if mib >= 1000 else f"{mib:.0f}M" if mib >= 10 else f"{mib:.1f}M"


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return "now"
