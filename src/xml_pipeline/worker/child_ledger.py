"""The ledger as `complete()` reaches it from a child: over the socket to the parent."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from xml_pipeline.llm.errors import LedgerUnavailable
from xml_pipeline.message_bus.messages import HoldRelease, HoldReply, HoldRequest, UsageEvent
from xml_pipeline.worker.parking import parks
from xml_pipeline.worker.wire import LedgerAnswer, LedgerAsk


class LedgerAsks:
    """The asks of all runs of this child that are not answered yet."""

    def __init__(self, send: Callable[[LedgerAsk], None]) -> None:
        self._send = send
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}

    async def ask(self, run: int, message: HoldRequest | UsageEvent | HoldRelease) -> bytes:
        """The parent's answer. Raises LedgerUnavailable where it refuses."""
        number = next(self._numbers)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._send(LedgerAsk(number, run, message.model_dump_json().encode()))
        try:
            return await answer
        finally:
            del self._waiting[number]

    def answered(self, answer: LedgerAnswer) -> None:
        """An answer has arrived; nobody may wait for it any longer."""
        future = self._waiting.get(answer.ask)
        if future is None or future.done():
            return
        if answer.error is None:
            future.set_result(answer.body)
        else:
            future.set_exception(LedgerUnavailable(answer.error))


class RunLedger:
    """The LedgerPort of one run. `park` ends the run: its message waits until its budgets have room."""

    def __init__(self, asks: LedgerAsks, run: int, park: Callable[[HoldReply], None]) -> None:
        self._asks = asks
        self._run = run
        self._park = park

    async def hold(self, request: HoldRequest) -> HoldReply:
        """The parent repeats the request until a usage service answers. Does not return where the run is parked."""
        reply = HoldReply.model_validate_json(await self._asks.ask(self._run, request))
        if parks(reply):
            self._park(reply)
            # The run is being cancelled, and this with it: there is nothing that a handler could catch and go on from.
            await asyncio.get_running_loop().create_future()
        return reply

    async def settle(self, event: UsageEvent) -> None:
        """The parent has the event from the first step on, and publishes it whatever becomes of this child."""
        await self._asks.ask(self._run, event)

    async def release(self, release: HoldRelease) -> None:
        """Like `settle`."""
        await self._asks.ask(self._run, release)
