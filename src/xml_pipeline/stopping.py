"""How long a stop may take, in seconds.

`docker stop` kills after 10 seconds. The steps of a service's stop follow one another and end before that all together,
even where broker and database are gone or silent; in the usual case each takes a fraction of its limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Final

# A process that has not ended by then ends at once: what it still had in hand is taken over as after a crash.
WHOLE: Final = 9.0

# Before the handlers of a worker are given up: its default, which may be set.
HANDLERS: Final = 5.0
# For children to end by themselves; and for turns of handlers that have just ended to be confirmed.
CHILDREN: Final = 0.5
LAST_TURNS: Final = 0.5

# For the batch that a router has in hand, and for the confirms that it has not written down.
ROUTING: Final = 3.0

# For the ledger to book what has arrived, and then for the batch in hand.
BOOKING: Final = 2.5
LAST_BATCH: Final = 0.5

# For the requests to a gateway that are under way; after `SILENCE` a database that does not answer is given up.
REQUESTS: Final = 3
SILENCE: Final = 2.0
# For what a gateway has accepted to be published: what is not is found in the inbox.
PUBLISHING: Final = 1.0

# For what is cancelled to say goodbye to the database.
GOODBYE: Final = 0.2
# Each for all consumers, connections or sessions together.
CONSUMERS: Final = 0.5
BROKER: Final = 1.5
DATABASE: Final = 1.0
# For the last spans to be exported: a collector that does not answer costs no more.
TRACES: Final = 0.4

# What comes after a worker's grace for its handlers.
AFTER_HANDLERS: Final = WHOLE - HANDLERS


async def cancel_all(tasks: Collection[asyncio.Future[Any]], cut: Callable[[], None]) -> None:
    """Cancel tasks and wait for their ends. Those that would hang in a silent database are freed by `cut`.

    Again and again: a cancellation is lost where a goodbye that fails takes its place.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=GOODBYE)
        if left:
            cut()
