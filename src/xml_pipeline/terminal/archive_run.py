"""An archive from its beginning to its end: month by month to a file, and then out of the books."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.failpoints import failpoint
from xml_pipeline.storage import archiving
from xml_pipeline.storage.archiving import Totals
from xml_pipeline.storage.database import Database
from xml_pipeline.storage.partitions import add_month
from xml_pipeline.terminal.usage_files import ArchiveFileError, sha256_of, written

# Lock not available, deadlock.
_OTHERS_WERE_AT_IT = ("55P03", "40P01")
_TRIES = 60
_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Archived:
    """A month, what it holds, and its file."""

    month: datetime
    totals: Totals
    file: Path


@dataclass(frozen=True, slots=True)
class Archive:
    """What is to be done: the months before `before` into `folder`, as `csv` or `parquet`; `drop` their tables then."""

    before: datetime
    folder: Path
    form: str
    drop: bool = False

    async def look(self, db: Database) -> list[Archived]:
        """What `run` would do now. Raises ArchiveRefused and DatabaseUnavailable."""
        async with db.snapshot() as connection:
            months = await archiving.months_to_archive(connection, self.before)
            return [Archived(month, await archiving.totals(connection, month), self._file(month)) for month in months]

    async def run(self, db: Database) -> list[Archived]:
        """Archive, each month by itself: what is done stays done, and what was interrupted is done again.

        Raises ArchiveRefused, ArchiveChanged, ArchiveFileError and DatabaseUnavailable.
        """
        async with archiving.archiving_alone(db) as guard:
            async with db.begin() as connection:
                months = await archiving.months_to_archive(connection, self.before)
            if months:
                _make(self.folder)
            return [await self._one(db, guard, month) for month in months]

    def _file(self, month: datetime) -> Path:
        return self.folder / f"usage-{month:%Y-%m}.{self.form}"

    async def _one(self, db: Database, guard: AsyncConnection, month: datetime) -> Archived:
        await _until_free(db, lambda connection: add_month(connection, month))
        file = self._file(month)
        totals = await self._write(db, month, file)
        digest = sha256_of(file)
        failpoint("archive.after-file")

        async def take_out(connection: AsyncConnection) -> None:
            # Whoever has lost the guard may not be alone any more.
            await guard.execute(text("select 1"))
            await archiving.take_out(connection, month, totals, file=file.name, sha256=digest, drop=self.drop)

        await _until_free(db, take_out)
        failpoint("archive.after-commit")
        return Archived(month, totals, file)

    async def _write(self, db: Database, month: datetime, file: Path) -> Totals:
        async with db.snapshot() as connection:
            totals = await archiving.totals(connection, month)
            with written(file, self.form, archiving.NAMES) as writer:
                async with aclosing(archiving.read_month(connection, month)) as pieces:
                    async for rows in pieces:
                        writer.write(rows)
        return totals


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveFileError(f"cannot make the folder: {error}") from error


async def _until_free(db: Database, step: Callable[[AsyncConnection], Awaitable[object]]) -> None:
    """One transaction, again while others hold its tables: it never has them wait for long."""
    for _ in range(_TRIES):
        try:
            async with db.begin() as connection:
                await step(connection)
                return
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _OTHERS_WERE_AT_IT:
                raise
        await asyncio.sleep(_PAUSE)
    raise DatabaseUnavailable("somebody used the tables of usage all the time: end long transactions, and try again")
