"""A dump of a fleet at work, restored into an empty PostgreSQL and an empty broker, goes on with every thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import asyncpg
import pytest

from tests.integration.backup_scenario import SLOW, Story, dumped, inject_body, restored
from tests.support.broker import Broker
from tests.support.postgres_server import PostgresServer
from tests.support.processes import wait_until

LIMIT = 60.0
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def story(managed_broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Services run on what was restored; what needed mending is mended."""
    told = Story(tmp_path_factory.mktemp("backup"), managed_broker, "backup")
    told.begin()
    lost, new = PostgresServer(), PostgresServer()
    try:
        lost.create()
        lost.start()
        asyncio.run(dumped(told, lost))
        lost.close()
        new.create()
        new.start()
        asyncio.run(restored(told, new))
        (told.signs / "restored").touch()
        with told.services(told.database_url, told.keys["kept"]):
            yield told
    finally:
        lost.close()
        new.close()


def rows(story: Story, statement: str, *values: object) -> list[asyncpg.Record]:
    async def fetch() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(story.database_url)
        try:
            return list(await connection.fetch(statement, *values))
        finally:
            await connection.close()

    return asyncio.run(fetch())


def status(story: Story, thread: str) -> str:
    return str(story.api.done("GET", f"/threads/{thread}")["status"])


def until_completed(story: Story, threads: list[str]) -> None:
    for thread in threads:
        what = f"{thread} is completed"
        wait_until(partial(lambda one: status(story, one) == "completed", thread), timeout=LIMIT, what=what)


def test_the_dump_holds_threads_in_every_state(story: Story) -> None:
    assert all(story.facts[listener] for listener in ("retrier", "poison", "spender", "napper", "payer", "slow"))
    assert story.facts["out"] > story.facts["slow"], "more are out than run: they waited in RabbitMQ alone"
    assert story.facts["waiting"] > 0
    assert story.facts["out"] + story.facts["waiting"] == SLOW
    assert story.facts["untaken"] >= len(story.threads["ingress"])
    assert story.facts["not-booked"] == 1


def test_what_was_accepted_before_it_is_in_it(story: Story) -> None:
    prepared = {thread for threads in story.threads.values() for thread in threads}
    assert prepared | {story.killed, *story.answered, *story.before.values()} <= story.known
    assert len(story.before) > 5


def test_what_worked_or_waited_ends_as_it_would_have(story: Story) -> None:
    for listener in ("slow", "payer", "retrier", "ingress"):
        until_completed(story, story.threads[listener])
    until_completed(story, [thread for thread in story.during.values() if thread in story.known])
    until_completed(story, [*story.before.values(), *story.answered])
    assert status(story, story.killed) == "killed"


def test_a_paused_agent_goes_on_when_it_may(story: Story) -> None:
    (thread,) = story.threads["napper"]
    assert status(story, thread) == "active"
    story.api.done("POST", "/agents/napper/resume")
    until_completed(story, [thread])


def test_what_is_parked_goes_on_when_there_is_room(story: Story) -> None:
    (thread,) = story.threads["spender"]
    assert story.api.done("GET", f"/usage/threads/{thread}")["parkedMessages"] == 1
    story.api.done("POST", f"/usage/threads/{thread}/top-up", {"tokens": 3000})
    until_completed(story, [thread])


def test_a_dead_letter_is_redriven(story: Story) -> None:
    (thread,) = story.threads["poison"]
    assert status(story, thread) == "error"
    (letter,) = story.api.done("GET", f"/dead-letters?thread={thread}")["deadLetters"]
    story.api.done("POST", f"/dead-letters/{letter['id']}/redrive")
    until_completed(story, [thread])


def test_a_call_whose_usage_was_on_the_broker_alone_is_booked_at_its_bound(story: Story) -> None:
    (thread,) = story.threads["payer"]
    statement = "select kind from usage_events where thread_id = cast($1 as uuid) order by granted_at"
    wait_until(lambda: len(rows(story, statement, thread)) == 2, timeout=LIMIT, what="both calls are booked")
    assert [row[0] for row in rows(story, statement, thread)] == ["expired", "measured"]


def test_what_came_after_the_dump_is_sent_again(story: Story) -> None:
    assert not story.known & set(story.after.values())
    for key, thread in story.after.items():
        assert story.api.call("GET", f"/threads/{thread}").status_code == 404
        again = story.api.done("POST", "/inject", inject_body("asker", key), key=key)
        until_completed(story, [again["threadId"]])


def test_what_came_before_it_and_is_sent_again_is_not_done_again(story: Story) -> None:
    for number, thread in enumerate(story.threads["ingress"]):
        text = f"ingress {number}"
        assert story.api.done("POST", "/inject", inject_body("asker", text), key=text)["threadId"] == thread


def test_keys_are_those_of_the_dump(story: Story) -> None:
    # That a key which was revoked later is valid again is what docs/backup.md warns of.
    valid = {"kept": True, "revoked-before": False, "revoked-after": True, "made-after": False}
    found = {}
    for name, key in story.keys.items():
        story.api.key = key
        found[name] = story.api.call("GET", "/threads").is_success
    story.api.key = story.keys["kept"]
    assert found == valid


def test_nobody_has_more_rights_than_before(story: Story) -> None:
    story.organism(
        "doctor",
        "--prefix",
        f"{story.name}-",
        "--management",
        story.broker.node.management_url,
        database_url=story.database_url,
    )
    may = "select has_function_privilege($1, 'make_usage_month(timestamptz, bigint)', 'execute')"
    assert [rows(story, may, f"organism_{role}")[0][0] for role in ("usage", "gateway", "reports")] == [
        True,
        False,
        False,
    ]
    assert rows(story, "select has_table_privilege('organism_reports', 'reports.cost_by_day', 'select')")[0][0]


def test_at_the_end_nothing_is_there_twice_and_the_books_are_clean(story: Story) -> None:
    """The last test: it looks at what all of them have left."""
    wait_until(lambda: not rows(story, "select from threads where open <> 0"), timeout=LIMIT, what="all is closed")
    wait_until(lambda: not rows(story, "select from holds where state = 'held'"), timeout=LIMIT, what="all is booked")
    assert len(story.during) > 5
    asked = [*story.answered, *story.before.values(), *story.threads["ingress"]]
    each = rows(
        story,
        "select count(*), count(*) filter (where to_id = 'api') from messages"
        " where thread_id = any(cast($1 as uuid[])) group by thread_id",
        asked,
    )
    assert [tuple(row) for row in each] == [(4, 1)] * len(asked)
    others = rows(
        story,
        "select thread_id from messages where to_id = 'api' and thread_id = any(cast($1 as uuid[]))",
        [*story.threads["slow"], *story.threads["retrier"], *story.threads["payer"]],
    )
    assert len(others) == SLOW + 2
    assert "the books were clean at" in story.organism("audit", database_url=story.database_url).stdout
