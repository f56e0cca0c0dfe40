"""The statements that add to rollups, in the order of their keys; budgets are locked before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.rollup_rows import LatencyKey, LatencySums, RollupKey, Sums, TagKey, TagSums

_TYPES = {
    "period": "int",
    "start": "timestamptz",
    "day": "timestamptz",
    "tag_id": "uuid",
    "bucket": "smallint",
    "cost": "numeric",
    "uncached_cost": "numeric",
    "grain": "text",
    "agent_id": "text",
    "model": "text",
    "provider": "text",
}


def columns_of(sums: type[Any]) -> tuple[str, ...]:
    """The columns that sums are kept in."""
    return tuple(field.name for field in fields(sums))


def on_conflict(table: str, keys: tuple[str, ...], sums: tuple[str, ...]) -> str:
    """The clause that adds to a row that is there."""
    added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in sums)
    return f"on conflict ({', '.join(keys)}) do update set {added}"


def _add(table: str, keys: tuple[str, ...], sums: tuple[str, ...]) -> TextClause:
    names = (*keys, *sums)
    arrays = ", ".join(f"cast(:{name} as {_TYPES.get(name, 'bigint')}[])" for name in names)
    columns = ", ".join(names)
    return text(
        f"insert into {table} ({columns}) select {columns} from unnest({arrays}) as new ({columns})"  # noqa: S608
        f" order by {', '.join(keys)} {on_conflict(table, keys, sums)}"
    )


_ADD = {
    key: (_add(table, key._fields, columns_of(sums)), columns_of(sums))
    for table, key, sums in (
        ("usage_rollups", RollupKey, Sums),
        ("tag_rollups", TagKey, TagSums),
        ("latency_rollups", LatencyKey, LatencySums),
    )
}


async def add_rollups(connection: AsyncConnection, rollups: Mapping[RollupKey, Sums]) -> None:
    """Add to the sums of hours and days."""
    await _execute(connection, RollupKey, rollups)


async def add_tag_rollups(connection: AsyncConnection, rollups: Mapping[TagKey, TagSums]) -> None:
    """Add to the sums of tags."""
    await _execute(connection, TagKey, rollups)


async def add_latencies(connection: AsyncConnection, rollups: Mapping[LatencyKey, LatencySums]) -> None:
    """Add to the histograms of latencies."""
    await _execute(connection, LatencyKey, rollups)


async def _execute(
    connection: AsyncConnection,
    key: type[RollupKey | TagKey | LatencyKey],
    rollups: Mapping[Any, Sums | TagSums | LatencySums],
) -> None:
    if not rollups:
        return
    statement, sums = _ADD[key]
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rollups] for name in key._fields}
    columns |= {name: [getattr(row, name) for row in rollups.values()] for name in sums}
    await connection.execute(statement, columns)
