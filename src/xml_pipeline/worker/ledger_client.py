"""The worker's side of the ledger: hold requests over the usage queue, usage events that are confirmed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from uuid import UUID

import structlog
from pydantic import ValidationError

from xml_pipeline.health.pulse import rest
from xml_pipeline.message_bus.messages import HoldRelease, HoldReply, HoldRequest, UsageEvent
from xml_pipeline.message_bus.port import Bus, Consumer, Incoming, Outgoing
from xml_pipeline.message_bus.topology import Names
from xml_pipeline.tracing.ids import HEADER
from xml_pipeline.worker.metrics import WorkerMetrics
from xml_pipeline.worker.outbox import Outbox

log = structlog.get_logger(__name__)

_FIRST_WAIT = 1.0
_LONGEST_WAIT = 3.0
_MOST_REPLIES = 500


class LedgerClient:
    """Asks the usage service; one for a worker."""

    def __init__(self, bus: Bus, names: Names, outbox: Outbox, metrics: WorkerMetrics) -> None:
        self._bus = bus
        self._names = names
        self._outbox = outbox
        self._metrics = metrics
        self._replies: Consumer | None = None
        self._waiting: dict[UUID, asyncio.Future[HoldReply]] = {}

    async def open(self) -> None:
        """Get an address for replies. Raises BrokerUnavailable."""
        self._replies = await self._bus.subscribe([])

    async def run(self) -> None:
        """Receive replies, until cancelled."""
        while self._replies is not None:
            for delivery in await rest(self._replies.batch(_MOST_REPLIES)):
                self._receive(delivery)

    @property
    def healthy(self) -> bool:
        """Whether replies are known to come."""
        return self._replies is not None and self._replies.healthy

    @property
    def wanted(self) -> int:
        """How many calls wait for a hold."""
        return len(self._waiting)

    async def close(self) -> None:
        """Stop receiving."""
        if self._replies is not None:
            await self._replies.close()

    async def hold(self, request: HoldRequest, traceparent: str = "") -> HoldReply:
        """What the ledger answers. Replies get lost, and granting is idempotent: so ask again until cancelled."""
        answer: asyncio.Future[HoldReply] = asyncio.get_running_loop().create_future()
        self._waiting[request.call_id] = answer
        wait, began = _FIRST_WAIT, time.monotonic()
        try:
            while not answer.done():
                self._ask(request, traceparent)
                await asyncio.wait((answer,), timeout=wait)
                wait = min(wait * 2, _LONGEST_WAIT)
            reply = answer.result()
            self._metrics.hold_answered(reply.state, time.monotonic() - began)
            return reply
        finally:
            if self._waiting.get(request.call_id) is answer:
                del self._waiting[request.call_id]

    def settle(self, event: UsageEvent, confirmed: Callable[[], None], traceparent: str = "") -> None:
        """Publish until the broker has it, then call `confirmed`."""
        self._outbox.post(self._letter(event, traceparent), confirmed)

    def release(self, call_id: UUID, confirmed: Callable[[], None]) -> None:
        """Give a hold back, that was granted or may yet be."""
        self._outbox.post(self._letter(HoldRelease(call_id=call_id)), confirmed)

    def _ask(self, request: HoldRequest, traceparent: str) -> None:
        if self._replies is not None:
            self._outbox.post_once(self._letter(request, traceparent, reply_to=self._replies.reply_address))

    def _letter(
        self, message: HoldRequest | UsageEvent | HoldRelease, traceparent: str = "", reply_to: str | None = None
    ) -> Outgoing:
        return Outgoing(
            exchange=self._names.usage_door,
            routing_key=self._names.usage,
            body=message.model_dump_json().encode(),
            headers={HEADER: traceparent} if traceparent else {},
            persistent=reply_to is None,
            correlation_id=str(message.call_id),
            reply_to=reply_to,
        )

    def _receive(self, delivery: Incoming) -> None:
        try:
            reply = HoldReply.model_validate_json(delivery.body)
        except ValidationError:
            log.warning("ledger_reply_not_understood", size=len(delivery.body))
            return
        answer = self._waiting.get(reply.call_id)
        if answer is not None and not answer.done():
            answer.set_result(reply)
