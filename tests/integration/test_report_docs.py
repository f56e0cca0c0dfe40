"""docs/reports.md says what the views are."""

from __future__ import annotations

import asyncpg

from tests.support.report_docs import DETAILS, FILE, MARK, made
from xml_pipeline.reports.definitions import REPORTS


async def test_the_file_is_what_the_views_say(database_url: str) -> None:
    written = FILE.read_text().partition(MARK)[2]
    assert written.lstrip("\n") == await made(database_url), "run python -m tests.support.report_docs"


async def test_every_view_is_a_report_and_every_column_documented(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch(
        """
        select relname, attname, col_description(c.oid, attnum) as comment
        from pg_class c join pg_attribute a on a.attrelid = c.oid
        where relnamespace = 'reports'::regnamespace and attnum > 0
        """
    )
    await connection.close()
    assert {row["relname"] for row in rows} == {*(report.view for report in REPORTS.values()), *DETAILS}
    assert [(row["relname"], row["attname"]) for row in rows if not row["comment"]] == []
