"""What the gateway reads and steers: threads, messages, listeners, configuration, usage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.organism.budgets import UNLIMITED
from xml_pipeline.organism.model import Listener, Organism
from xml_pipeline.storage import (
    audit,
    configuration,
    dead_letters,
    ledger_tables,
    listeners,
    messages,
    organism_state,
    tables,
    threads,
    usage,
)
from xml_pipeline.storage.database import Database


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url)
    yield database
    await database.close()


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[AsyncConnection]:
    async with database.begin() as connection:
        yield connection


BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


async def _thread(connection: AsyncConnection, *, minutes: int = 0, **values: Any) -> UUID:
    id_ = uuid4()
    activity = BEGINNING + timedelta(minutes=minutes)
    await connection.execute(
        insert(tables.threads).values(id=id_, created_at=activity, last_activity=activity, **values)
    )
    return id_


async def _message(connection: AsyncConnection, thread: UUID, slot: int, **values: Any) -> UUID:
    usual: dict[str, Any] = {
        "id": uuid4(),
        "thread_id": thread,
        "slot": slot,
        "from_id": "api",
        "to_id": "greeter",
        "kind": "request",
        "payload_type": "greeter.greeting",
        "body": b"<greeter.greeting/>",
        "mailbox": True,
        "state": "closed",
    }
    row = {**usual, **values}
    await connection.execute(insert(tables.messages).values(row))
    id_: UUID = row["id"]
    return id_


async def test_threads_come_with_the_newest_first(connection: AsyncConnection) -> None:
    made = [await _thread(connection, minutes=minute) for minute in range(5)]
    page = await threads.list_threads(connection, limit=2, offset=1)
    assert [thread.id for thread in page.items] == [made[3], made[2]]
    assert page.total == 5


async def test_threads_by_status_agent_and_time(connection: AsyncConnection) -> None:
    failed = await _thread(connection, status="error", participants=["api", "greeter"], minutes=1, error="why")
    active = await _thread(connection, participants=["api", "planner"], minutes=2)
    for filters, expected in [
        ({"status": "error"}, {failed}),
        ({"agent": "planner"}, {active}),
        ({"since": BEGINNING + timedelta(minutes=2)}, {active}),
        ({"status": "active", "agent": "greeter"}, set()),
    ]:
        page = await threads.list_threads(connection, **filters)  # type: ignore[arg-type]
        assert ({thread.id for thread in page.items}, page.total) == (expected, len(expected))
    assert await threads.count_active(connection) == 1
    found = await threads.get_thread(connection, failed)
    assert found is not None
    assert (found.error, found.participants) == ("why", ("api", "greeter"))
    assert await threads.get_thread(connection, uuid4()) is None


async def test_a_kill_closes_what_is_open_but_what_no_router_has_logged_and_is_noted_once(
    connection: AsyncConnection,
) -> None:
    thread = await _thread(connection, open=3, slots=4)
    for slot, state in enumerate(["closed", "out", "waiting"], start=1):
        await _message(connection, thread, slot, state=state, outcome="handled" if state == "closed" else None)
    await connection.execute(
        insert(tables.inbox).values(id=uuid4(), thread_id=thread, to_id="greeter", request_hash=b"", body=b"")
    )
    killed = await threads.kill_thread(connection, thread, actor="someone")
    assert killed is not None
    assert (killed.before, killed.thread.status, killed.listeners) == ("active", "killed", ("greeter",))
    again = await threads.kill_thread(connection, thread, actor="someone")
    assert again is not None
    assert (again.before, again.listeners) == ("killed", ())
    outcomes = [message.outcome for message in (await messages.list_messages(connection, thread_id=thread)).items]
    assert sorted(map(str, outcomes)) == ["handled", "killed", "killed"]
    left = text("select (select open from threads), (select count(*) from inbox where taken_at is null)")
    assert tuple((await connection.execute(left)).one()) == (1, 1)
    noted = await audit.list_entries(connection, action="kill")
    assert [(entry.actor, entry.subject, entry.detail) for entry in noted.items] == [
        ("someone", str(thread), {"before": "active"})
    ]
    assert await threads.kill_thread(connection, uuid4(), actor="someone") is None


async def test_history_by_thread_and_by_agent(connection: AsyncConnection) -> None:
    first, second = await _thread(connection), await _thread(connection)
    one = await _message(connection, first, 1)
    other = await _message(connection, second, 1, to_id="planner")
    two = await _message(connection, first, 2, from_id="greeter", to_id="api", answers=one)
    in_all = await messages.list_messages(connection, limit=2)
    assert ([message.id for message in in_all.items], in_all.total) == ([two, other], 3)
    of_thread = await messages.list_messages(connection, thread_id=first, newest_first=False)
    assert [message.id for message in of_thread.items] == [one, two]
    of_agent = await messages.list_messages(connection, agent="greeter")
    assert ([message.id for message in of_agent.items], of_agent.total) == ([two, one], 2)
    reply = await messages.reply_to(connection, one)
    assert reply is not None
    assert (reply.id, reply.slot) == (two, 2)
    assert await messages.reply_to(connection, other) is None
    found = await messages.get_message(connection, other)
    assert found is not None
    assert found.to_id == "planner"
    assert await messages.count_messages(connection) == 3


def _organism(*names: str, text_: str = "organism: {}") -> Organism:
    made = {
        name: Listener(name, "", dict, handler=print, root_tag=f"{name}.dict", schema="<xs:schema/>", is_agent=True)
        for name in names
    }
    return Organism("room", made, text=text_)


async def test_a_configuration_is_published_once(database: Database) -> None:
    async def publish(organism: Organism, *, force: bool = False) -> int:
        async with database.begin() as connection:
            return (await configuration.publish(connection, organism, force=force)).version

    organism = _organism("greeter")
    versions = await asyncio.gather(*(publish(organism) for _ in range(5)))
    assert len(set(versions)) == 1
    changed = _organism("greeter", text_="organism: {name: other}")
    assert await publish(changed) > versions[0]
    latest = await publish(changed, force=True)
    async with database.begin() as connection:
        assert await configuration.latest_version(connection) == latest
        found = await configuration.latest(connection)
    assert found is not None
    assert found.text == "organism: {name: other}"


async def test_a_changed_schema_is_another_configuration() -> None:
    organism = _organism("greeter")
    listener = replace(organism.listeners["greeter"], schema="<xs:schema><xs:element/></xs:schema>")
    changed = replace(organism, listeners={"greeter": listener})
    assert configuration.digest_of(organism) != configuration.digest_of(changed)


async def test_listeners_follow_the_configuration(connection: AsyncConnection) -> None:
    await configuration.publish(connection, _organism("greeter", "shouter"))
    assert await listeners.set_paused(connection, "greeter", True, actor="someone")
    await configuration.publish(connection, _organism("greeter", "planner", text_="2"))
    work = await listeners.work(connection)
    assert {name: row.state for name, row in work.items()} == {"greeter": "paused", "planner": "idle"}
    assert not await listeners.set_paused(connection, "shouter", True, actor="someone")
    assert await listeners.set_paused(connection, "greeter", False, actor="someone")
    assert [entry.action for entry in (await audit.list_entries(connection)).items] == ["resume", "pause"]


async def test_the_work_of_listeners(connection: AsyncConnection) -> None:
    await configuration.publish(connection, _organism("greeter", "planner"))
    thread = await _thread(connection)
    await _message(connection, thread, 1, state="closed")
    await _message(connection, thread, 2, state="out")
    await _message(connection, thread, 3, state="waiting")
    await _message(connection, thread, 4, to_id="planner", from_id="greeter", state="ready")
    await connection.execute(
        insert(tables.inbox).values(id=uuid4(), thread_id=thread, to_id="greeter", request_hash=b"", body=b"")
    )
    work = await listeners.work(connection)
    greeter, planner = work["greeter"], work["planner"]
    assert (greeter.state, greeter.queue_depth, greeter.running, greeter.current_thread) == ("processing", 3, 1, thread)
    assert (planner.state, planner.queue_depth, planner.current_thread) == ("waiting", 1, None)
    activity = await listeners.activity(connection)
    assert {name: row.message_count for name, row in activity.items()} == {"api": 3, "greeter": 1}


async def test_a_stop_is_for_those_who_run_now(database: Database) -> None:
    async with database.begin() as connection:
        before = await organism_state.database_time(connection)
        assert not (await organism_state.read_state(connection)).stops(before)
        await organism_state.request_stop(connection, actor="someone")
        state = await organism_state.read_state(connection)
    assert state.stops(before)
    assert not state.stops(state.now)


_DAY = datetime(2026, 1, 1, tzinfo=UTC)


async def _rollup(connection: AsyncConnection, agent: str, model: str, *, period: int = 1, **values: Any) -> None:
    keys = {"period": period, "start": _DAY, "agent_id": agent, "model": model, "provider": "scripted", "requests": 1}
    for grain in ("hour", "day"):
        await connection.execute(insert(ledger_tables.usage_rollups).values({**keys, "grain": grain, **values}))


async def test_sums_are_of_the_current_period(connection: AsyncConnection) -> None:
    await _rollup(
        connection, "a", "m/1", prompt_tokens=10, completion_tokens=5, latency_us=100_000, cost=Decimal("0.1")
    )
    await _rollup(connection, "a", "m2", requests=3, prompt_tokens=1, latency_us=100_000, cost=Decimal("0.2"))
    await _rollup(connection, "b", "m2", completion_tokens=2)
    in_all = await usage.totals(connection)
    assert (in_all.total_tokens, in_all.requests, in_all.average_latency_ms) == (18, 5, 40.0)
    assert in_all.cost == Decimal("0.3")
    assert (await usage.totals(connection, agent="a")).requests == 4
    assert (await usage.totals(connection, model="m/1")).prompt_tokens == 10
    assert await usage.totals(connection, agent="nobody") == usage.Sums()
    overview = await usage.overview(connection)
    assert overview.totals == in_all
    assert [(name, sums.total_tokens) for name, sums in overview.by_agent.items()] == [("a", 16), ("b", 2)]
    assert [(name, sums.total_tokens) for name, sums in overview.by_model.items()] == [("m/1", 15), ("m2", 3)]
    assert await organism_state.reset_usage(connection, actor="someone") == 2
    assert await usage.totals(connection) == usage.Sums()
    assert await usage.overview(connection) == usage.Overview(usage.Sums(), {}, {})


async def test_what_is_expired_has_no_latency(connection: AsyncConnection) -> None:
    await _rollup(connection, "a", "m", requests=3, expired=1, latency_us=100_000)
    assert (await usage.totals(connection)).average_latency_ms == 50.0


async def test_budgets_come_with_the_most_used_first(connection: AsyncConnection) -> None:
    made = {}
    limits = {"unlimited": (UNLIMITED, 9_000), "low": (100_000, 4_500), "high": (100, 99), "none": (50, 0)}
    for name, (limit, used) in limits.items():
        made[name] = id_ = uuid4()
        row = {"id": id_, "level": 2, "thread_id": id_, "base_tokens": limit, "prompt_tokens": used}
        await connection.execute(insert(ledger_tables.budgets).values(row))
    assert [budget.thread_id for budget in await usage.list_budgets(connection)] == [
        made["high"],
        made["low"],
        made["none"],
        made["unlimited"],
    ]
    assert len(await usage.list_budgets(connection, limit=1)) == 1
    assert await usage.get_budget(connection, made["low"]) == usage.ThreadBudget(
        made["low"], 100_000, 0, 4_500, 0, 0, 0
    )
    assert await usage.get_budget(connection, uuid4()) is None
    # The organism has one, too.
    assert await usage.count_budgets(connection) == 4


async def test_dead_letters(connection: AsyncConnection) -> None:
    id_ = uuid4()
    await connection.execute(
        insert(tables.dead_letters).values(id=id_, code="invalid-xml", reason="no envelope", body=b"\x00rubbish")
    )
    page = await dead_letters.list_dead_letters(connection)
    assert [(letter.id, letter.body, letter.message_id) for letter in page.items] == [(id_, b"\x00rubbish", None)]
    assert await dead_letters.get_dead_letter(connection, id_) == page.items[0]
    assert await dead_letters.get_dead_letter(connection, uuid4()) is None
