"""What `complete()` books of the kinds of tokens: streamed or not the same, and a bound where nothing is reported."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.ledger_support import check_books, handled_message, numbers
from tests.integration.test_complete import endpoint
from tests.unit.stub_llm import Step, piece, streamed
from xml_pipeline.llm import ProviderError, Tokens, complete
from xml_pipeline.storage.database import Database

USAGE = {
    "prompt_tokens": 50,
    "completion_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 40, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 20},
}
USED = Tokens(50, 30, cache_read_tokens=40, reasoning_tokens=20, audio_prompt_tokens=0)
BUFFERED = Step(body={"choices": [{"message": {"content": "Good day"}}], "usage": USAGE})
STREAMED = streamed(piece("Good "), piece("day", "stop"), {"choices": [], "usage": USAGE})
_BOOKED = f"""
    select kind, {", ".join(Tokens._fields)}, cost, uncached_cost, rates
    from usage_events left join prices on prices.id = price_id
"""  # noqa: S608


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, pool_size=4)
    yield database
    await database.close()


async def booked(db: Database) -> tuple[object, ...]:
    """The one row, which is then forgotten."""
    await check_books(db)
    row = await numbers(db, _BOOKED)
    async with db.begin() as connection:
        for table in ("usage_events", "usage_rollups", "latency_rollups", "budgets", "prices"):
            await connection.exec_driver_sql(f"truncate {table}")
    return row


async def test_streamed_and_buffered_calls_book_the_same(db: Database) -> None:
    rows = []
    for step in (BUFFERED, STREAMED):
        heard: list[str] = []
        async with endpoint(db, await handled_message(db), step):
            completion = await complete("Greet Dan", model="gpt-4o", on_text=heard.append)
        assert (completion.text, "".join(heard), completion.tokens) == ("Good day", "Good day", USED)
        assert not completion.estimated
        rows.append(await booked(db))
    assert rows[0] == rows[1]
    # 10 of the prompt at 2.5, 40 from the cache at 1.25, and 30 at 10 USD for a million.
    kind, *tokens, cost, uncached, rates = rows[0]
    assert (kind, tuple(tokens)) == ("measured", tuple(USED))
    assert (str(cost), str(uncached)) == ("0.000375", "0.000425")
    assert rates == {"input": "2.5", "output": "10", "cache_read": "1.25"}


@pytest.mark.parametrize(
    "step",
    [
        Step(body={"choices": [{"message": {"content": "Good day"}}]}),
        streamed(piece("Good "), piece("day", "stop")),
    ],
    ids=["buffered", "streamed"],
)
async def test_an_answer_without_counts_is_booked_as_estimated(db: Database, step: Step) -> None:
    async with endpoint(db, await handled_message(db), step):
        completion = await complete("Greet Dan", model="grok-4.1")
    # "Be kind." and "Greet Dan" are 17 bytes, with 16 for each and 16 for the prompt; "Good day" is 8 with its 16.
    assert (completion.estimated, completion.tokens) == (True, Tokens(65, 24))
    kind, *tokens, cost, uncached, _ = await booked(db)
    assert (kind, tuple(tokens), uncached) == ("estimated", (65, 24, *[None] * 7), None)
    assert str(cost) == "0.000555"


async def test_a_stream_that_breaks_is_not_booked_and_its_hold_stays(db: Database) -> None:
    async with endpoint(db, await handled_message(db), streamed(piece("Good "), end=False, missing=9)):
        with pytest.raises(ProviderError, match="broke"):
            await complete("Greet Dan")
    assert await numbers(db, "select count(*) from usage_events") == (0,)
    assert await numbers(db, "select state from holds") == ("held",)
    await check_books(db)
