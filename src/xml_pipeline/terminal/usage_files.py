"""Files of usage events: CSV, or Parquet with its types. One has its name when all of it is on disk, and not before."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Protocol

from xml_pipeline.errors import InvalidInput, XmlPipelineError
from xml_pipeline.failpoints import failpoint

FORMATS = ("parquet", "csv")
_TEXTS = ("call_id", "message_id", "thread_id", "agent_id", "model", "provider", "kind", "price_source")
_JSON = ("price_rates", "tags")
_MONEY = ("cost", "uncached_cost")
_TIMES = ("granted_at", "booked_at")
_PRECISION, _SCALE = 38, 18


class ArchiveFileError(XmlPipelineError):
    """The file could not be written, or there is another one in its place; nothing was taken out of the books."""

    code = "archive-file"


class Writer(Protocol):
    """Takes rows in pieces. Raises ArchiveFileError."""

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Add rows."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class CsvWriter:
    """A line of names and one for each event; what is not known is empty, money is written out."""

    def __init__(self, file: BinaryIO, columns: Sequence[str]) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        self._csv = csv.writer(self._text, lineterminator="\n")
        self._csv.writerow(columns)

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Add rows."""
        with _file_errors():
            self._csv.writerows([_plain(value) for value in row] for row in rows)

    def close(self) -> None:
        """Write what is left."""
        with _file_errors():
            self._text.detach()


class ParquetWriter:
    """Money is decimal(38, 18), times are microseconds in UTC; each piece becomes a row group."""

    def __init__(self, file: BinaryIO, columns: Sequence[str]) -> None:
        self._pa, parquet = _pyarrow()
        self._columns = columns
        self._schema = self._pa.schema([(name, _type(self._pa, name)) for name in columns])
        self._writer = parquet.ParquetWriter(file, self._schema)

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Add rows."""
        with _file_errors():
            arrays = [self._array(name, [row[at] for row in rows]) for at, name in enumerate(self._columns)]
            self._writer.write_table(self._pa.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        """Write the file's end."""
        with _file_errors():
            self._writer.close()

    def _array(self, name: str, values: list[Any]) -> object:
        try:
            return self._pa.array(values, self._schema.field(name).type)
        except self._pa.ArrowInvalid as error:
            # Rounded it were not what is booked.
            raise ArchiveFileError(f"{name} does not fit into Parquet's type ({error}): use --format csv") from error


def require_format(form: str) -> None:
    """Raises InvalidInput for a format that is not known, or that needs what is not installed."""
    if form not in FORMATS:
        raise InvalidInput(f"--format must be one of {', '.join(FORMATS)}")
    if form == "parquet":
        _pyarrow()


@contextmanager
def written(path: Path, form: str, columns: Sequence[str]) -> Iterator[Writer]:
    """A writer to a new file. Raises ArchiveFileError, also where another file has its name: that one is left alone."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with _file_errors():
            file = part.open("xb")
        with file:
            writer: Writer = CsvWriter(file, columns) if form == "csv" else ParquetWriter(file, columns)
            try:
                yield writer
            finally:
                writer.close()
            with _file_errors():
                file.flush()
                os.fsync(file.fileno())
        failpoint("archive.before-rename")
        with _file_errors():
            _rename(part, path)
    finally:
        part.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """What tells whether a file is still the one that was written."""
    with _file_errors(), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rename(part: Path, path: Path) -> None:
    """A file that is there may be of an archive that was killed, or hold another organism's month."""
    if path.exists() and sha256_of(path) != sha256_of(part):
        raise ArchiveFileError(f"{path} exists and holds other events: move it away, or write to another folder")
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArchiveFileError(f"cannot write the file: {error}") from error


def _pyarrow() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InvalidInput("Parquet needs pyarrow: install xml-pipeline[parquet], or use --format csv") from error
    return pyarrow, pyarrow.parquet


def _plain(value: object) -> object:
    return format(value, "f") if isinstance(value, Decimal) else value


def _type(arrow: ModuleType, name: str) -> object:
    if name in _TEXTS or name in _JSON:
        return arrow.string()
    if name in _MONEY:
        return arrow.decimal128(_PRECISION, _SCALE)
    return arrow.timestamp("us", tz="UTC") if name in _TIMES else arrow.int64()
