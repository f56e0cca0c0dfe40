"""The forms that programs read: CSV, JSON and Parquet. Nothing is rounded in them."""

from __future__ import annotations

import csv
import io
import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from xml_pipeline.errors import InvalidInput
from xml_pipeline.reports.definitions import Column, Kind
from xml_pipeline.reports.query import Result

# Prices are per million tokens: more digits than that does a cost seldom have.
_PRECISION, _SCALE = 38, 18
_SMALLEST = Decimal(1).scaleb(-_SCALE)


class ParquetMissing(InvalidInput):
    """Parquet is written by a package that is not installed."""

    code = "parquet-missing"


def as_csv(result: Result) -> str:
    """A line of names, also where there are no rows; decimals are plain, what is not known is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([column.name for column in result.columns])
    writer.writerows([_text(value) for value in row] for row in result.rows)
    return file.getvalue()


def as_json(result: Result) -> str:
    """An object with `rows`: counts are numbers, money and other decimals are strings, what is not known is null."""
    names = [column.name for column in result.columns]
    wanted = result.wanted
    answer = {
        "report": wanted.report.name,
        "from": wanted.first and wanted.first.isoformat(),
        "to": wanted.last and wanted.last.isoformat(),
        "groupBy": [column.name for column in wanted.groups],
        "rows": [dict(zip(names, map(_json, row), strict=True)) for row in result.rows],
    }
    return json.dumps(answer, indent=2, ensure_ascii=False) + "\n"


def as_parquet(result: Result) -> bytes:
    """Columns with types: money is decimal(38, 18). Raises ParquetMissing."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ParquetMissing(
            "Parquet needs pyarrow: install xml-pipeline[parquet], or choose another --format"
        ) from error
    types = {
        Kind.DAY: pa.date32(),
        Kind.TIME: pa.timestamp("us", tz="UTC"),
        Kind.TEXT: pa.string(),
        Kind.FLAG: pa.bool_(),
        Kind.COUNT: pa.int64(),
        Kind.MONEY: pa.decimal128(_PRECISION, _SCALE),
        Kind.NUMBER: pa.float64(),
    }
    columns = [
        pa.array([_cell(column, row[index]) for row in result.rows], types[column.kind])
        for index, column in enumerate(result.columns)
    ]
    file = io.BytesIO()
    pq.write_table(pa.table(columns, names=[column.name for column in result.columns]), file)
    return file.getvalue()


def write_file(path: Path, content: str | bytes) -> None:
    """Write all of it, or say what stands in the way. Raises InvalidInput."""
    try:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}") from error


def plain(value: Decimal) -> str:
    """A decimal without an exponent and without zeros at its end."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _text(value: Any) -> str:  # noqa: ANN401 - of any column
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _json(value: Any) -> Any:  # noqa: ANN401 - of any column
    return value if value is None or isinstance(value, bool | int) else _text(value)


def _cell(column: Column, value: Any) -> Any:  # noqa: ANN401 - of any column
    if value is None:
        return None
    if column.kind is Kind.MONEY:
        return Decimal(value).quantize(_SMALLEST)
    return float(value) if column.kind is Kind.NUMBER else value
