"""Datasets of the Hugging Face Hub, by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe_exp.data.readers.format import Format
from recipe_exp.data.readers.parquet import first_line
from recipe_exp.data.readers.rows import Row
from recipe_exp.data.readers.table import rows_of_table, used_columns
from recipe_exp.errors import DataError

_ROWS_AT_A_TIME = 256


def find_dataset(name: str) -> list[Path]:
    """Returns the files in which the library `datasets` keeps a dataset, those of every split; downloads it if need be.

    Args:
        name: `OWNER/NAME`, `OWNER/NAME:CONFIG` for one of several configurations, `...@REVISION` for a fixed version,
            or a folder that `datasets.load_dataset` takes.

    Raises:
        DataError: the library is not installed or would run a dataset's code, or there is no such dataset here, nor a
            way to fetch it.
    """
    where = f"data.path={name}"
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{where}: data.format=huggingface needs the package datasets; pip install datasets") from error
    if int(getattr(datasets, "__version__", "4").partition(".")[0]) < 4:
        version = datasets.__version__
        raise DataError(f"{where}: datasets {version} runs a dataset's own code; pip install 'datasets>=4'")
    bare, _, revision = name.partition("@")
    repository, _, configuration = bare.partition(":")
    try:
        loaded = datasets.load_dataset(repository, configuration or None, revision=revision or None)
    # The library raises what its many parts raise; none of it is worth more than its line.
    except Exception as error:
        raise DataError(
            f"{where}: cannot be loaded ({first_line(error)}); check the name and the connection"
        ) from error
    return [Path(file["filename"]) for split in _splits(loaded) for file in split.cache_files]


def read_arrow(path: Path) -> Iterator[Row]:
    """Yields one row for every row of an Arrow stream, counted from 1.

    Raises:
        DataError: no column has a known name, or the file is damaged.
    """
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as reader:
            columns = used_columns(str(path), reader.schema.names)
            yield from rows_of_table(str(path), _batches(reader, columns))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); delete it to have it loaded again") from error


def _splits(loaded: Any) -> list[Any]:
    return list(loaded.values()) if isinstance(loaded, dict) else [loaded]


def _batches(reader: Any, columns: list[str]) -> Iterator[list[dict[str, Any]]]:
    for batch in reader:
        chosen = batch.select(columns)
        for start in range(0, len(chosen), _ROWS_AT_A_TIME):
            yield chosen.slice(start, _ROWS_AT_A_TIME).to_pylist()


FORMAT = Format("huggingface", (), read_arrow, lambda _: False)
