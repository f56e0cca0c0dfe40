"""Files of usage events: CSV, or Parquet with its types."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from xml_pipeline.errors import InvalidInput

FORMATS = ("parquet", "csv")
_TEXTS = ("call_id", "message_id", "thread_id", "agent_id", "model", "provider", "kind", "price_source")
_JSON = ("price_rates", "tags")
_MONEY = ("cost", "uncached_cost")
_TIMES = ("granted_at", "booked_at")
_PRECISION, _SCALE = 38, 18
_SMALLEST = Decimal(1).scaleb(-_SCALE)


class Writer(Protocol):
    """Takes rows in pieces."""

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Add rows."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class CsvWriter:
    """A line of names and one for each event; what is not known is empty, money is written out."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._csv = csv.writer(self._file, lineterminator="\n")
        self._csv.writerow(columns)

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Add rows."""
        self._csv.writerows([_plain(value) for value in row] for row in rows)

    def close(self) -> None:
        """On disk when this returns."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class ParquetWriter:
    """Money is decimal(38, 18), times are microseconds in UTC. Raises InvalidInput without pyarrow."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise InvalidInput("Parquet needs pyarrow: install xml-pipeline[parquet], or use --format csv") from error
        self._pa = pa
        self._columns = columns
        self._schema = pa.schema([(name, _type(pa, name)) for name in columns])
        self._writer = pq.ParquetWriter(path, self._schema)

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Add rows, as one group."""
        columns = [[_money(name, row[at]) for row in rows] for at, name in enumerate(self._columns)]
        arrays = [self._pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._writer.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        """Write the file's end."""
        self._writer.close()


@contextmanager
def written(path: Path, form: str, columns: Sequence[str]) -> Iterator[Writer]:
    """A writer to a file that has its name only when all is in it."""
    part = path.with_name(f"{path.name}.part")
    writer: Writer = CsvWriter(part, columns) if form == "csv" else ParquetWriter(part, columns)
    try:
        yield writer
    finally:
        writer.close()
    part.replace(path)


def sha256_of(path: Path) -> str:
    """What tells whether a file is still the one that was written."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(value: object) -> object:
    return format(value, "f") if isinstance(value, Decimal) else value


def _money(name: str, value: object) -> object:
    return value.quantize(_SMALLEST) if name in _MONEY and isinstance(value, Decimal) else value


def _type(arrow: ModuleType, name: str) -> object:
    if name in _TEXTS or name in _JSON:
        return arrow.string()
    if name in _MONEY:
        return arrow.decimal128(_PRECISION, _SCALE)
    return arrow.timestamp("us", tz="UTC") if name in _TIMES else arrow.int64()
