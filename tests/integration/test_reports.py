"""Each report on six calls made by hand, on nothing, in every form, and through the role that reads just them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from decimal import Decimal
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4
from xml.etree import ElementTree

import asyncpg
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests.support import report_sample
from tests.support.organism_up import organism
from xml_pipeline.errors import InvalidInput, SchemaOutdated
from xml_pipeline.reports import chart, formats, svg, terminal
from xml_pipeline.reports.definitions import REPORTS
from xml_pipeline.reports.query import NotAllowed, Result, Wanted, run_report
from xml_pipeline.storage.database import Database

A, B, C = (f"00000000-0000-0000-0000-00000000000{letter}" for letter in "abc")
COSTS = "requests,estimated,expired,unpriced,prompt_tokens,completion_tokens,total_tokens,cost"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url)
    yield database
    await database.close()


@pytest.fixture
async def filled(database: Database) -> Database:
    async with database.begin() as connection:
        await report_sample.fill(connection)
    return database


async def _ask(
    database: Database,
    name: str,
    *by: str,
    first: date | None = None,
    last: date | None = None,
    limit: int | None = None,
) -> Result:
    async with database.snapshot() as connection:
        return await run_report(connection, Wanted(REPORTS[name], first, last, by or None, limit))


async def _said(database: Database, name: str, *by: str, **parts: date) -> list[str]:
    return formats.as_csv(await _ask(database, name, *by, **parts)).splitlines()  # type: ignore[arg-type]


EXPECTED = {
    "cost-by-day": [
        f"day,{COSTS}",
        "2026-01-01,2,0,0,0,5000,700,5700,0.0174",
        "2026-01-02,3,1,1,1,5500,1500,7000,0.036",
        "2026-01-03,1,0,0,0,1000,100,1100,0.0045",
    ],
    "cost-by-agent": [
        f"agent,{COSTS}",
        "writer,3,1,1,1,7500,1600,9100,0.0354",
        "planner,3,0,0,0,4000,700,4700,0.0225",
    ],
    "cost-by-model": [
        f"model,provider,{COSTS}",
        "claude-sonnet-4-5,anthropic,2,0,1,0,7000,1500,8500,0.0354",
        "grok-4.1,xai,3,0,0,0,4000,700,4700,0.0225",
        "nobody-knows-it,local,1,1,0,1,500,100,600,0",
    ],
    "cost-by-provider": [
        f"provider,{COSTS}",
        "anthropic,2,0,1,0,7000,1500,8500,0.0354",
        "xai,3,0,0,0,4000,700,4700,0.0225",
        "local,1,1,0,1,500,100,600,0",
    ],
    "cost-by-tag": [
        "tag_key,tag_value,requests,prompt_tokens,completion_tokens,total_tokens,cost",
        "team,blue,2,5000,700,5700,0.0174",
        "customer,acme,2,2500,500,3000,0.012",
        "team,red,2,2500,500,3000,0.012",
    ],
    "threads-by-cost": [
        "thread_id,day,tags,requests,prompt_tokens,completion_tokens,total_tokens,cost",
        f"{C},2026-01-02,{{}},2,4000,1100,5100,0.0285",
        f'{A},2026-01-01,"{{""team"": ""blue""}}",2,5000,700,5700,0.0174',
        f'{B},2026-01-02,"{{""team"": ""red"", ""customer"": ""acme""}}",2,2500,500,3000,0.012',
    ],
    "budget-utilisation": [
        "level,budget,unlimited,max_tokens,spent_tokens,held_tokens,available_tokens,used_percent",
        f"thread,{A},false,6000,5700,200,100,95",
        f"agent,writer in {A},false,5000,4500,200,300,90",
        "tag,customer=acme,false,10000,3000,0,7000,30",
        f"thread,{B},false,100000,3000,0,97000,3",
        "organism,organism,true,9007199254740991,13800,200,9007199254726991,",
        "tag,team=blue,true,9007199254740991,5700,200,9007199254735091,",
        "tag,team=red,true,9007199254740991,3000,0,9007199254737991,",
    ],
    # 1.05^138 is 840, 1.05^142 is 1020, 1.05^146 is 1240, 1.05^123 is 404, 1.05^156 is 2020.
    "latency-by-model": [
        "model,provider,requests,p50_ms,p90_ms,p95_ms,p99_ms",
        "grok-4.1,xai,3,1020.7,1240.6,1240.6,1240.6",
        "claude-sonnet-4-5,anthropic,1,2020.8,2020.8,2020.8,2020.8",
        "nobody-knows-it,local,1,403.9,403.9,403.9,403.9",
    ],
    "cache-savings": [
        "model,provider,requests,prompt_tokens,cache_read_tokens,cache_write_tokens,cached_percent,cost,uncached_cost,saved",
        "claude-sonnet-4-5,anthropic,2,7000,3000,0,42.9,0.0354,0.0435,0.0081",
        "grok-4.1,xai,3,4000,0,0,0,0.0225,0.0225,0",
        "nobody-knows-it,local,1,500,0,0,0,0,0,0",
    ],
    "unpriced-models": ["model,provider,unpriced,requests,total_tokens", "nobody-knows-it,local,1,1,600"],
    "expired-holds": [
        "granted_at,expires_at,call_id,thread_id,agent,model,provider,prompt_tokens,completion_tokens,total_tokens,cost",
        "2026-01-02T12:00:00+00:00,2026-01-02T13:00:00+00:00,00000000-0000-0000-0000-000000000005,"
        f"{C},writer,claude-sonnet-4-5,anthropic,3000,1000,4000,0.024",
    ],
    "burn-rate": [
        "level,budget,unlimited,available_tokens,tokens_per_day,days_left",
        "organism,organism,true,9007199254726991,971,",  # 5700 and 1100 tokens in seven days
        "tag,customer=acme,false,7000,3000,2.3",
        "tag,team=red,true,9007199254737991,3000,",
        "tag,team=blue,true,9007199254735091,0,",
        f"thread,{A},false,100,1425,0.1",  # 5700 tokens in four days
        f"thread,{B},false,97000,750,129.3",  # 3000 tokens in four days
    ],
}


@pytest.mark.parametrize("name", REPORTS)
async def test_a_report_counts_right(filled: Database, name: str) -> None:
    if name == "burn-rate":
        async with filled.begin() as connection:
            await report_sample.move_to_today(connection)
    assert await _said(filled, name) == EXPECTED[name]


@pytest.mark.parametrize("name", REPORTS)
async def test_on_nothing_every_form_has_its_head(database: Database, name: str) -> None:
    found = await _ask(database, name)
    head = formats.as_csv(found).splitlines()
    names = head[0].split(",")
    assert names == EXPECTED[name][0].split(",")
    # The organism has a budget from the beginning.
    rows = 1 if name in ("budget-utilisation", "burn-rate") else 0
    assert len(head) == 1 + rows
    assert len(json.loads(formats.as_json(found))["rows"]) == rows
    table = pq.read_table(io.BytesIO(formats.as_parquet(found)))
    assert (table.column_names, table.num_rows) == (names, rows)
    drawn = ElementTree.fromstring(svg.as_svg(chart.chart_of(found)))  # noqa: S314 - our own
    assert rows or "no data" in [element.text for element in drawn.iter()]
    assert terminal.as_plot(chart.chart_of(found))
    assert terminal.as_table(found)


async def test_days_are_a_range_that_includes_both(filled: Database) -> None:
    second = date(2026, 1, 2)
    assert await _said(filled, "cost-by-day", first=second, last=second) == [
        EXPECTED["cost-by-day"][0],
        EXPECTED["cost-by-day"][2],
    ]
    assert len(await _said(filled, "cost-by-day", first=second)) == 3
    assert len(await _said(filled, "expired-holds", first=second, last=second)) == 2
    assert len(await _said(filled, "expired-holds", first=date(2026, 1, 3))) == 1
    assert len(await _said(filled, "expired-holds", last=date(2026, 1, 1))) == 1
    assert (await _said(filled, "latency-by-model", first=date(2026, 1, 3)))[1:] == [
        "grok-4.1,xai,1,1240.6,1240.6,1240.6,1240.6"
    ]
    assert len((await _ask(filled, "threads-by-cost", limit=2)).rows) == 2


async def test_groups_are_those_that_were_asked_for(filled: Database) -> None:
    assert (await _said(filled, "cost-by-agent", "agent", "model"))[1:3] == [
        "writer,claude-sonnet-4-5,2,0,1,0,7000,1500,8500,0.0354",
        "planner,grok-4.1,3,0,0,0,4000,700,4700,0.0225",
    ]
    assert [line.rsplit(",", 8)[0] for line in await _said(filled, "cost-by-day", "provider", "day")] == [
        "provider,day",
        "anthropic,2026-01-01",
        "xai,2026-01-01",
        "anthropic,2026-01-02",
        "local,2026-01-02",
        "xai,2026-01-02",
        "xai,2026-01-03",
    ]
    assert (await _said(filled, "expired-holds", "agent"))[1:] == ["writer,3000,1000,4000,0.024"]
    assert (await _said(filled, "cost-by-tag", "tag_key"))[1:] == [
        "team,4,7500,1200,8700,0.0294",
        "customer,2,2500,500,3000,0.012",
    ]
    assert (await _said(filled, "cache-savings", "agent"))[1].startswith("writer,3,7500,3000,0,40,")
    assert (await _said(filled, "latency-by-model", "provider"))[1] == "xai,3,1020.7,1240.6,1240.6,1240.6"
    assert (await _said(filled, "budget-utilisation", "level"))[1].startswith("tag,")


async def test_what_a_report_cannot_be_asked(filled: Database) -> None:
    with pytest.raises(InvalidInput, match="choose from day, agent, model, provider"):
        await _ask(filled, "cost-by-day", "team; drop table budgets")
    with pytest.raises(InvalidInput, match="is after"):
        await _ask(filled, "cost-by-day", first=date(2026, 1, 2), last=date(2026, 1, 1))


async def test_what_is_about_now_is_so_whatever_days_are_asked_for(filled: Database, database_url: str) -> None:
    assert await _said(filled, "budget-utilisation", first=date(2030, 1, 1)) == EXPECTED["budget-utilisation"]
    asked = ("report", "burn-rate", "--from", "2030-01-01", "--format", "csv")
    done = organism(*asked, ORGANISM_DATABASE_URL=database_url)
    assert (done.returncode, done.stdout.startswith("level,")) == (0, True)
    assert "about now" in done.stderr


async def test_json_keeps_money_exact(filled: Database) -> None:
    said = json.loads(formats.as_json(await _ask(filled, "cost-by-provider", first=date(2026, 1, 1))))
    assert {key: said[key] for key in ("report", "from", "to", "groupBy")} == {
        "report": "cost-by-provider",
        "from": "2026-01-01",
        "to": None,
        "groupBy": ["provider"],
    }
    assert said["rows"][0] == {
        "provider": "anthropic",
        "requests": 2,
        "estimated": 0,
        "expired": 1,
        "unpriced": 0,
        "prompt_tokens": 7000,
        "completion_tokens": 1500,
        "total_tokens": 8500,
        "cost": "0.0354",
    }
    used = json.loads(formats.as_json(await _ask(filled, "budget-utilisation")))["rows"]
    assert (used[0]["unlimited"], used[0]["used_percent"], used[4]["used_percent"]) == (False, "95", None)


async def test_parquet_has_types(filled: Database) -> None:
    costs = pq.read_table(io.BytesIO(formats.as_parquet(await _ask(filled, "cost-by-day"))))
    assert costs.column("cost").to_pylist() == [Decimal("0.0174"), Decimal("0.036"), Decimal("0.0045")]
    assert costs.column("day").to_pylist()[0] == date(2026, 1, 1)
    held = pq.read_table(io.BytesIO(formats.as_parquet(await _ask(filled, "expired-holds"))))
    assert held.column("granted_at").to_pylist() == [datetime(2026, 1, 2, 12, tzinfo=UTC)]


async def test_charts_are_lines_over_days_and_bars_otherwise(filled: Database) -> None:
    lines = chart.chart_of(await _ask(filled, "cost-by-day", "day", "agent"))
    assert isinstance(lines, chart.Lines)
    assert lines.lines == {"writer": [0.0114, 0.024, 0.0], "planner": [0.006, 0.012, 0.0045]}
    drawn = ElementTree.fromstring(svg.as_svg(lines))  # noqa: S314 - our own
    assert len([element for element in drawn.iter() if element.tag.endswith("polyline")]) == 2
    bars = chart.chart_of(await _ask(filled, "threads-by-cost"))
    assert isinstance(bars, chart.Bars)
    assert bars.values == [(C, 0.0285), (A, 0.0174), (B, 0.012)]
    drawn = ElementTree.fromstring(svg.as_svg(bars))  # noqa: S314 - our own
    widths = [float(element.attrib["width"]) for element in drawn.iter() if element.tag.endswith("rect")][1:]
    assert [round(width / widths[0], 2) for width in widths] == [1.0, 0.61, 0.42]


def _plotted(drawn: chart.Chart) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=120)
    console.print(terminal.as_plot(drawn))
    assert isinstance(console.file, io.StringIO)
    return [line.split() for line in console.file.getvalue().splitlines()[1:]]


async def test_plots_on_a_terminal(filled: Database) -> None:
    costs = _plotted(chart.chart_of(await _ask(filled, "cost-by-provider")))
    assert [(label, round(len(bar) / 40, 1), value) for label, bar, value in costs[:2]] == [
        ("anthropic", 1.0, "$0.0354"),
        ("xai", 0.7, "$0.0225"),
    ]
    assert costs[2] == ["local", "$0"]
    days = _plotted(chart.chart_of(await _ask(filled, "cost-by-day")))
    assert [line[0] for line in days] == ["2026-01-01", "2026-01-02", "2026-01-03"]
    lines = _plotted(chart.chart_of(await _ask(filled, "cost-by-day", "day", "agent")))
    assert lines == [
        ["writer", "▄█▁", "$0.0354"],
        ["planner", "▃▅▂", "$0.0225"],
        ["2026-01-01", "to", "2026-01-03"],
    ]


def test_the_command(database_url: str) -> None:
    empty = organism("report", "cost-by-day", "--format", "csv", ORGANISM_DATABASE_URL=database_url)
    assert (empty.returncode, empty.stdout) == (0, f"day,{COSTS}\n"), empty.stderr
    drawn = organism("report", "cost-by-day", "--format", "chart", ORGANISM_DATABASE_URL=database_url)
    assert drawn.stdout.startswith("<svg ")
    listed = organism("report")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(REPORTS)


async def test_the_command_on_calls(
    filled: Database, database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("reports")
    asked = ("report", "cost_by_agent", "--from", "2026-01-01", "--to", "2026-01-02", "--group-by", "agent,day")
    table = organism(*asked, "--limit", "3", ORGANISM_DATABASE_URL=database_url)
    assert table.returncode == 0, table.stderr
    assert [line.split()[:2] for line in table.stdout.splitlines()[2:]] == [
        ["planner", "2026-01-01"],
        ["writer", "2026-01-01"],
        ["planner", "2026-01-02"],
    ]
    for form in ("csv", "json", "parquet", "chart", "table"):
        file = folder / f"report.{form}"
        done = organism(*asked, "--format", form, "--out", str(file), ORGANISM_DATABASE_URL=database_url)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert file.stat().st_size > 100
    rows = list(csv.DictReader((folder / "report.csv").read_text().splitlines()))
    assert [row["cost"] for row in rows] == ["0.006", "0.0114", "0.012", "0.024"]


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (["report", "cost-by-moon"], 1, "cost-by-day, cost-by-agent"),
        (["report", "cost-by-day", "--group-by", "moon"], 2, "day, agent, model, provider"),
        (["report", "cost-by-day", "--from", "yesterday"], 2, "yesterday"),
        (["report", "cost-by-day", "--format", "csv", "--out", "/no/folder/x"], 2, "cannot write /no/folder/x"),
    ],
)
def test_what_is_wrong_is_said(database_url: str, arguments: list[str], status: int, complaint: str) -> None:
    done = organism(*arguments, ORGANISM_DATABASE_URL=database_url)
    assert (done.returncode, complaint in done.stderr) == (status, True), done.stderr
    assert "Traceback" not in done.stderr


def test_no_database_is_said() -> None:
    assert "ORGANISM_DATABASE_URL is not set" in organism("report", "cost-by-day").stderr
    done = organism("report", "cost-by-day", ORGANISM_DATABASE_URL="postgresql://postgres@127.0.0.1:1/none")
    assert (done.returncode, "127.0.0.1:1" in done.stderr, "Traceback" in done.stderr) == (1, True, False)


async def test_a_database_without_reports_is_refused(empty_database_url: str) -> None:
    database = Database.connect(empty_database_url)
    try:
        with pytest.raises(SchemaOutdated, match="organism migrate"):
            await _ask(database, "cost-by-day")
    finally:
        await database.close()


@pytest.fixture
async def reader(database_url: str) -> AsyncIterator[str]:
    """The URL of somebody who may do nothing yet."""
    name = f"reader_{uuid4().hex}"
    admin = await asyncpg.connect(database_url)
    await admin.execute(f"create role {name} login password 'secret'")
    parts = urlsplit(database_url)
    yield urlunsplit(parts._replace(netloc=f"{name}:secret@{parts.hostname}:{parts.port}"))
    await admin.execute(f"drop role {name}")
    await admin.close()


async def test_the_role_sees_views_and_no_tables(filled: Database, database_url: str, reader: str) -> None:
    stranger = Database.connect(reader)
    try:
        with pytest.raises(NotAllowed, match="organism_reports"):
            await _ask(stranger, "cost-by-day")
    finally:
        await stranger.close()
    admin = await asyncpg.connect(database_url)
    await admin.execute(f"grant organism_reports to {urlsplit(reader).username}")
    tables = [row[0] for row in await admin.fetch("select tablename from pg_tables where schemaname = 'public'")]
    await admin.close()
    allowed = Database.connect(reader)
    try:
        for name in REPORTS:
            await _ask(allowed, name)
        assert await _said(allowed, "cost-by-day") == EXPECTED["cost-by-day"]
    finally:
        await allowed.close()
    connection = await asyncpg.connect(reader)
    assert len(tables) > 15
    for table in tables:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch(f"select 1 from public.{table}")  # noqa: S608
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("create table reports.mine (id int)")
    await connection.close()
