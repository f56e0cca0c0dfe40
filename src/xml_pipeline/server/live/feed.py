"""The live feed as it comes from the bus: to the clients, to who waits for a reply, to the presence of services."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from pydantic import ValidationError

from xml_pipeline.envelope.model import API
from xml_pipeline.health.pulse import rest
from xml_pipeline.message_bus.messages import Heartbeat
from xml_pipeline.message_bus.port import Bus, Consumer, Incoming
from xml_pipeline.message_bus.topology import Binding, Names
from xml_pipeline.server import feed
from xml_pipeline.server.live.configured import Current
from xml_pipeline.server.live.metrics import GatewayMetrics
from xml_pipeline.server.live.presence import Presence
from xml_pipeline.server.models import AgentState, MessageInfo

log = structlog.get_logger(__name__)

_BATCH = 500
_IDS_KEPT = 50_000


class LiveFeed:
    """One subscription of a gateway: events, heartbeats, control hints. What gets lost is lost to onlookers only."""

    def __init__(
        self, names: Names, current: Current, hub: feed.Hub, on_hint: Callable[[], None], metrics: GatewayMetrics
    ) -> None:
        self._names = names
        self._current = current
        self._hub = hub
        self._on_hint = on_hint
        self._metrics = metrics
        self._consumer: Consumer | None = None
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._waiting: dict[str, asyncio.Future[MessageInfo | None]] = {}
        self._given_up = False
        self.presence = Presence()

    @property
    def healthy(self) -> bool:
        """Whether the broker delivers the feed now."""
        return self._consumer is not None and self._consumer.healthy

    async def open(self, bus: Bus) -> None:
        """Subscribe; raises BrokerUnavailable."""
        bindings = [
            Binding(self._names.events, "", "feed.*"),
            Binding(self._names.events, "", "heartbeat.*"),
            Binding(self._names.control, ""),
        ]
        self._consumer = await bus.subscribe(bindings)

    async def run(self) -> None:
        """Take what comes, until cancelled."""
        while self._consumer is not None:
            for delivery in await rest(self._consumer.batch(_BATCH)):
                self._take(delivery)
                await asyncio.sleep(0)

    async def close(self) -> None:
        """Subscribe no longer."""
        if self._consumer is not None:
            await self._consumer.close()

    @contextmanager
    def waiting_for_reply(self, message_id: str) -> Iterator[asyncio.Future[MessageInfo | None]]:
        """A future for what comes back to the outside caller for that inject, as far as the feed tells.

        None: it is not waited for any longer.
        """
        future = self._waiting.setdefault(message_id, asyncio.get_running_loop().create_future())
        if self._given_up and not future.done():
            future.set_result(None)
        try:
            yield future
        finally:
            self._waiting.pop(message_id, None)

    def give_up_waiting(self) -> None:
        """Whoever waits for a reply, now or later, gets none."""
        self._given_up = True
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)

    def _take(self, delivery: Incoming) -> None:
        try:
            if delivery.exchange == self._names.control:
                self._on_hint()
            elif delivery.routing_key.startswith("heartbeat."):
                self.presence.note(Heartbeat.model_validate_json(delivery.body), time.monotonic())
            else:
                for event in json.loads(delivery.body)["events"]:
                    self._event(event)
        except (ValueError, ValidationError, KeyError, TypeError) as error:
            log.warning("feed.not_understood", routing_key=delivery.routing_key, error=type(error).__name__)

    def _event(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "message":
            self._message(event)
        elif self._hub.watched:
            self._hub.publish(_as_event(event))

    def _message(self, event: Mapping[str, Any]) -> None:
        """A batch that a router published twice is one batch to the clients."""
        if self.has_told(event["id"]):
            return
        self._note(event["id"])
        answers = event.get("answers") if event["to"] == API else None
        if answers is not None:
            self._metrics.answered(answers, event.get("kind", "response"))
        waiting = self._waiting.get(answers or "")
        if waiting is None and not self._hub.watched:
            return
        message = self._info(event)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)
        self._hub.publish(feed.message_event(message))

    def has_told(self, message_id: str) -> bool:
        """Whether the clients know of this message, as far as is remembered."""
        return message_id in self._seen

    def tell(self, message: MessageInfo) -> None:
        """Tell the clients of a message that the feed did not bring."""
        self._note(message.id)
        self._hub.publish(feed.message_event(message))

    def _note(self, message_id: str) -> None:
        self._seen[message_id] = None
        if len(self._seen) > _IDS_KEPT:
            self._seen.popitem(last=False)

    def _info(self, event: Mapping[str, Any]) -> MessageInfo:
        tag = event["payloadType"]
        return MessageInfo(
            id=event["id"],
            thread_id=event["threadId"],
            from_id=event["from"],
            to_id=event["to"],
            payload_type=tag,
            payload=self._current.value.payload_json(tag, event["payloadXml"].encode()),
            timestamp=event["timestamp"],
            slot_index=event["slotIndex"] - 1,
        )


def _as_event(event: Mapping[str, Any]) -> feed.Event:
    match event["event"]:
        case "agent_state":
            return feed.agent_event(event["agent"], AgentState(event["state"]), event.get("currentThread"))
        case "thread_updated":
            return feed.thread_updated_event(
                event["threadId"], event["status"], event["messageCount"], event.get("participants") or ()
            )
        case "thread_created":
            thread = event["thread"]
            agents, threads = frozenset(thread["participants"]), frozenset((thread["id"],))
            return feed.Event("thread_created", {"event": "thread_created", "thread": thread}, agents, threads)
        case "error":
            return feed.error_event(event["threadId"], event["agent"], event["error"], event["timestamp"])
        case name:
            return feed.usage_event(name, event)
