"""The history of messages as callers see it: what is routed, and what is accepted and about to be."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from xml_pipeline.server.live.configured import Configured
from xml_pipeline.server.live.records import message_info, pending_info
from xml_pipeline.server.models import MessageInfo
from xml_pipeline.server.view import Page
from xml_pipeline.storage.messages import list_messages
from xml_pipeline.storage.pending import list_pending

# Of what waits for a router, so many of the newest are shown; there are more only while none takes any.
_MOST_PENDING = 100


async def read_history(
    connection: AsyncConnection, configured: Configured, thread_id: UUID | None, agent: str | None, page: Page
) -> tuple[list[MessageInfo], int]:
    """One page and how many there are in all: a thread's in their order, everybody's with the newest first.

    In one snapshot, so that what a router takes meanwhile is on one side or the other.
    """
    pending = await list_pending(connection, thread_id=thread_id, agent=agent, limit=_MOST_PENDING)
    ahead = len(pending) if thread_id is None else 0
    first = pending[page.offset : page.offset + page.limit] if ahead else ()
    found = await list_messages(
        connection,
        thread_id=thread_id,
        agent=agent,
        newest_first=thread_id is None,
        limit=page.limit - len(first),
        offset=max(0, page.offset - ahead),
    )
    routed = [message_info(record, configured) for record in found.items]
    last = pending[::-1][max(0, page.offset - found.total) :][: page.limit - len(routed)] if not ahead else ()
    shown = [pending_info(row, configured) for row in (*first, *last)]
    return (shown + routed if ahead else routed + shown), found.total + len(pending)
