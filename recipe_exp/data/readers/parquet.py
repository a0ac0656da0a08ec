"""Parquet: one record a row of the table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recipe_exp.data.readers.format import Format, Head
from recipe_exp.data.readers.rows import Row
from recipe_exp.data.readers.table import rows_of_table, used_columns
from recipe_exp.errors import DataError

SUFFIXES = (".parquet", ".pq")

_MAGIC = b"PAR1"
_ROWS_AT_A_TIME = 256


def read_parquet(path: Path) -> Iterator[Row]:
    """Yields one row for every row of the table, counted from 1; only the columns of recipes and pairs are read.

    Raises:
        DataError: no column has a known name, or the file is damaged or no Parquet file.
    """
    # Half a second to import, and most data are no Parquet.
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, pre_buffer=False) as table:
            columns = used_columns(str(path), table.schema_arrow.names)
            batches = table.iter_batches(_ROWS_AT_A_TIME, columns=columns, use_threads=False)
            yield from rows_of_table(str(path), (batch.to_pylist() for batch in batches))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({first_line(error)}); copy the file again") from error


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, which may be long."""
    return str(error).strip().split("\n", 1)[0][:200]


def _recognises(head: Head) -> bool:
    return head.data.startswith(_MAGIC)


FORMAT = Format("parquet", SUFFIXES, read_parquet, _recognises)
