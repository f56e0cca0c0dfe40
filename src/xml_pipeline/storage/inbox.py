"""Accepting injects: many in one transaction, each once, whichever gateway it comes to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.storage.backlog import Backlog, Full, refuse_by_count, refuse_by_thread
from xml_pipeline.storage.spent_budgets import Exhausted, exhausted_threads

KILLED = "killed"


@dataclass(frozen=True, slots=True)
class Inject:
    """One request from outside. `id` is its message's: where the caller gave an Idempotency-Key, derived from that.

    `thread_id` is the caller's, or one made for it (derived from `id` where there is a key, so that two gateways
    make the same). `request_hash` covers what the caller sent, not what was made for it. `body`: the envelope.
    `tags` are for a thread that begins; None says nothing of them.
    """

    id: UUID
    thread_id: UUID
    to_id: str
    request_hash: bytes
    body: bytes
    tags: Mapping[str, str] | None = None


class Refusal(StrEnum):
    """Why an inject was not accepted."""

    KILLED = "killed"
    CONFLICT = "conflict"
    TAGS_DIFFER = "tags-differ"


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the caller is told. `repeated`: it had been accepted before. `created_at`: set if it began its thread."""

    message_id: UUID
    thread_id: UUID
    repeated: bool = False
    created_at: datetime | None = None


Refused = Refusal | Full | Exhausted
Answer = Accepted | Refused


@dataclass(frozen=True, slots=True)
class _Alive:
    open: int
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Known:
    thread_id: UUID
    request_hash: bytes


async def accept(
    connection: AsyncConnection, injects: Sequence[Inject], backlog: Backlog | None = None
) -> list[Answer]:
    """Store the injects and count them as open in their threads; the answer to each, in order.

    Once the transaction is committed they are accepted. Nothing of a refused one is kept. With a `backlog`, what does
    not fit into it is refused: by listener and organism as counted there, by thread exactly. Whose thread, tags or
    organism has no tokens left is refused as well. What was accepted before is answered as it was, however full it is.
    """
    known = await _read(connection, {inject.id for inject in injects})
    fresh = _first_of_each(inject for inject in injects if inject.id not in known)
    refused: dict[UUID, Refused] = dict(refuse_by_count(fresh.values(), backlog)) if backlog else {}
    entering = [inject for id_, inject in fresh.items() if id_ not in refused]
    created = await _insert_threads(connection, _tags_of_new(entering))
    alive = await _lock_alive(connection, {inject.thread_id for inject in entering})
    entering = [inject for inject in entering if inject.thread_id in alive]
    refused |= await _refuse_by_budget(connection, entering, alive, created)
    refused |= _refuse_by_tags(entering, alive)
    if backlog:
        allowed = [inject for inject in entering if inject.id not in refused]
        open_ = {id_: thread.open for id_, thread in alive.items()}
        refused |= refuse_by_thread(allowed, backlog.limits.thread, open_)
    inserted = await _insert(connection, [inject for inject in entering if inject.id not in refused])
    await _count_open(connection, [fresh[id_] for id_ in inserted])
    await _forget_unused(connection, created.keys() - {fresh[id_].thread_id for id_ in inserted})
    # Read again under the locks: somebody else may have accepted the same in between.
    known |= await _read(connection, {inject.id for inject in entering} - inserted)
    return _answers(injects, known, {id_: fresh[id_] for id_ in inserted}, created, refused)


async def _refuse_by_budget(
    connection: AsyncConnection,
    injects: Iterable[Inject],
    alive: Mapping[UUID, _Alive],
    created: Collection[UUID],
) -> dict[UUID, Refused]:
    exhausted = await exhausted_threads(connection, {id_: thread.tags for id_, thread in alive.items()})
    return {
        inject.id: replace(exhausted[inject.thread_id], new=inject.thread_id in created)
        for inject in injects
        if inject.thread_id in exhausted
    }


def _refuse_by_tags(injects: Iterable[Inject], alive: Mapping[UUID, _Alive]) -> dict[UUID, Refused]:
    return {
        inject.id: Refusal.TAGS_DIFFER
        for inject in injects
        if inject.tags is not None and dict(inject.tags) != alive[inject.thread_id].tags
    }


def _tags_of_new(injects: Iterable[Inject]) -> dict[UUID, Mapping[str, str]]:
    """By thread; of several injects the first says them."""
    tags: dict[UUID, Mapping[str, str]] = {}
    for inject in injects:
        tags.setdefault(inject.thread_id, inject.tags or {})
    return tags


def _first_of_each(injects: Iterable[Inject]) -> dict[UUID, Inject]:
    """By id, in the order in which they came."""
    first: dict[UUID, Inject] = {}
    for inject in injects:
        first.setdefault(inject.id, inject)
    return first


def _answers(
    injects: Sequence[Inject],
    known: Mapping[UUID, _Known],
    inserted: Mapping[UUID, Inject],
    created: Mapping[UUID, datetime],
    refused: Mapping[UUID, Refused],
) -> list[Answer]:
    earlier, beginnings, new = dict(known), dict(created), dict(inserted)
    answers: list[Answer] = []
    for inject in injects:
        if new.pop(inject.id, None) is None:
            answers.append(_answer_again(inject, earlier.get(inject.id), refused.get(inject.id, Refusal.KILLED)))
            continue
        earlier[inject.id] = _Known(inject.thread_id, inject.request_hash)
        answers.append(Accepted(inject.id, inject.thread_id, created_at=beginnings.pop(inject.thread_id, None)))
    return answers


def _answer_again(inject: Inject, earlier: _Known | None, refusal: Refused) -> Answer:
    if earlier is None:
        return refusal
    if earlier.request_hash != inject.request_hash:
        return Refusal.CONFLICT
    return Accepted(inject.id, earlier.thread_id, repeated=True)


async def _read(connection: AsyncConnection, ids: Iterable[UUID]) -> dict[UUID, _Known]:
    wanted = list(ids)
    if not wanted:
        return {}
    statement = text("select id, thread_id, request_hash from inbox where id = any(cast(:ids as uuid[]))")
    rows = await connection.execute(statement, {"ids": wanted})
    return {row.id: _Known(row.thread_id, row.request_hash) for row in rows}


async def _insert_threads(connection: AsyncConnection, tags: Mapping[UUID, Mapping[str, str]]) -> dict[UUID, datetime]:
    statement = text("""
        insert into threads (id, tags)
        select * from unnest(cast(:ids as uuid[]), cast(cast(:tags as text[]) as jsonb[])) order by 1
        on conflict do nothing returning id, created_at
    """)
    if not tags:
        return {}
    columns = {"ids": list(tags), "tags": [json.dumps(dict(of_one)) for of_one in tags.values()]}
    return {row.id: row.created_at for row in await connection.execute(statement, columns)}


async def _lock_alive(connection: AsyncConnection, ids: Iterable[UUID]) -> dict[UUID, _Alive]:
    """What is open in each that was not killed, and its tags."""
    statement = text(
        "select id, status, open, tags from threads where id = any(cast(:ids as uuid[])) order by id for no key update"
    )
    wanted = list(ids)
    if not wanted:
        return {}
    rows = await connection.execute(statement, {"ids": wanted})
    return {row.id: _Alive(row.open, row.tags) for row in rows if row.status != KILLED}


async def locked_threads(connection: AsyncConnection, ids: Iterable[UUID]) -> set[UUID]:
    """Those of the threads that somebody else has locked now."""
    statement = text("""
        with free as (select id from threads where id = any(cast(:ids as uuid[])) for no key update skip locked)
        select id from threads where id = any(cast(:ids as uuid[])) and id not in (select id from free)
    """)
    return set((await connection.execute(statement, {"ids": list(ids)})).scalars())


async def _insert(connection: AsyncConnection, injects: Sequence[Inject]) -> set[UUID]:
    if not injects:
        return set()
    statement = text("""
        insert into inbox (id, thread_id, to_id, request_hash, body)
        select * from unnest(cast(:ids as uuid[]), cast(:threads as uuid[]), cast(:targets as text[]),
                             cast(:hashes as bytea[]), cast(:bodies as bytea[])) order by 1
        on conflict do nothing returning id
    """)
    rows = await connection.execute(
        statement,
        {
            "ids": [inject.id for inject in injects],
            "threads": [inject.thread_id for inject in injects],
            "targets": [inject.to_id for inject in injects],
            "hashes": [inject.request_hash for inject in injects],
            "bodies": [inject.body for inject in injects],
        },
    )
    return set(rows.scalars())


async def _count_open(connection: AsyncConnection, inserted: Sequence[Inject]) -> None:
    if not inserted:
        return
    counts = Counter(inject.thread_id for inject in inserted)
    # Each target once, in the order of arrival, behind those that took part before.
    statement = text("""
        update threads set open = open + n, status = 'active', last_activity = now(),
            participants = participants || array(
                select p from unnest(array['api'] || string_to_array(targets, ' ')) with ordinality as u (p, o)
                where not p = any(participants) group by p order by min(o))
        from unnest(cast(:ids as uuid[]), cast(:counts as int[]), cast(:targets as text[])) as d (thread, n, targets)
        where threads.id = d.thread
    """)
    targets = [" ".join(inject.to_id for inject in inserted if inject.thread_id == thread) for thread in counts]
    await connection.execute(statement, {"ids": list(counts), "counts": list(counts.values()), "targets": targets})


async def _forget_unused(connection: AsyncConnection, ids: Iterable[UUID]) -> None:
    unused = list(ids)
    if unused:
        statement = text("delete from threads where id = any(cast(:ids as uuid[])) and open = 0 and slots = 0")
        await connection.execute(statement, {"ids": unused})
