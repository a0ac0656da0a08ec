"""`task=prepare`: the data that training opens, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.messages import show_setting
from recipe_exp.config.model import ModelConfig
from recipe_exp.config.task import PrepareTask
from recipe_exp.data.card_file import CARD_FILE
from recipe_exp.data.preparation.prepared import PREPARED_FILES, PreparedData, split_file
from recipe_exp.data.split import SPLITS
from recipe_exp.errors import DataError
from recipe_exp.files import flush_to_disk, reason_of, write_atomically
from recipe_exp.models.download import fetch_model
from recipe_exp.models.stored_files import check_model_folder
from recipe_exp.reports.data_card import DATA_CARD_FILES
from recipe_exp.tasks import summary
from recipe_exp.tasks.data import open_data
from recipe_exp.tasks.data_card import DATA_CARD_HTML, publish_data_card
from recipe_exp.tasks.references import resolve_references


def run(config: ExperimentConfig) -> int:
    """Makes the data, or opens what is there, copies it where the user wants it, and says what it is and where.

    The data card is written below `output_dir`, from where the tracker gets it, and beside the copy: nothing is added
    to caches, which are shared.
    """
    config = resolve_references(config)
    assert isinstance(config.task, PrepareTask)
    output = Path(config.task.output).expanduser() if config.task.output is not None else None
    if output is not None:
        _refuse_strange_folder(output)
    console = Console(soft_wrap=True, markup=False)
    model = _fetch_model(config.model) if config.task.model else None
    cache = open_data(config, console)
    if output is not None:
        _copy(cache.prepared, output)
    with _write_errors_in_one_line("output_dir", Path(config.output_dir)):
        published = publish_data_card(cache, config)
    if output is not None:
        with _write_errors_in_one_line("task.output", output):
            for name in DATA_CARD_FILES:
                write_atomically(output / name, (published / name).read_bytes())
    folder = output or published
    summary.print_data(console, cache, folder / DATA_CARD_HTML)
    console.print(f"made  {cache.prepared.folder}", highlight=False)
    console.print(f"cache {cache.folder}", highlight=False)
    if model is not None:
        console.print(f"model {model}", highlight=False)
    if output is not None:
        console.print(f"copy  {output}; train on it with data=prepared data.path={output}", highlight=False)
    return 0


def _fetch_model(model: ModelConfig) -> Path:
    """Returns the folder of a model's weights, on this machine from now on."""
    path = Path(model.name).expanduser()
    folder = path if path.is_dir() else fetch_model(model.name, model.revision)
    check_model_folder(folder, model.shape)
    return folder


def _refuse_strange_folder(output: Path) -> None:
    """What somebody else put there is not mixed with splits."""
    names = {path.name for path in output.iterdir()} if output.is_dir() else set()
    if CARD_FILE not in names and names - {*PREPARED_FILES, *DATA_CARD_FILES}:
        where = show_setting("task.output", str(output))
        raise DataError(f"{where}: holds other files; name a folder that is empty or does not exist")


def _copy(prepared: PreparedData, output: Path) -> None:
    """Copies the files, the card last: without it a folder that is half written is no prepared data.

    Splits that were edited are copied without the card and the list of what was left out, which speak of others.
    """
    known = PREPARED_FILES if prepared.card is not None else tuple(map(split_file, SPLITS))
    names = [name for name in known if (prepared.folder / name).is_file()]
    with _write_errors_in_one_line("task.output", output):
        output.mkdir(parents=True, exist_ok=True)
        if output.samefile(prepared.folder):
            return
        for name in {*PREPARED_FILES} - {*names} | {CARD_FILE}:
            (output / name).unlink(missing_ok=True)
        for name in names:
            aside = output / f".{name}.{os.getpid()}.tmp"
            shutil.copyfile(prepared.folder / name, aside)
            flush_to_disk(aside)
            aside.replace(output / name)
        flush_to_disk(output)


@contextmanager
def _write_errors_in_one_line(key: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = show_setting(key, str(folder))
        raise DataError(f"{where}: cannot be written ({reason_of(error)}); choose another folder") from error
