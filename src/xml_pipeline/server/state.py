"""The API's memory: what a pump has been seen to do, and what the API itself was asked. Made without an event loop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from threading import RLock
from typing import Any
from uuid import uuid4

from xml_pipeline.organism.model import DEFAULT_PORT
from xml_pipeline.server import feed
from xml_pipeline.server.contracts import InputContract, contract_of
from xml_pipeline.server.looking.events import Done, apply_event
from xml_pipeline.server.looking.json_form import json_object
from xml_pipeline.server.looking.runtime_state import AgentRuntimeState, ThreadRuntimeState
from xml_pipeline.server.models import (
    AgentInfo,
    AgentState,
    CapabilityDetail,
    CapabilityInfo,
    MessageInfo,
    OrganismInfo,
    OrganismStatus,
    ThreadInfo,
    ThreadStatus,
)
from xml_pipeline.server.pump import Pump, at_once, number_of, text_of

__all__ = ["HISTORY_LIMIT", "AgentRuntimeState", "ServerState", "ThreadRuntimeState"]

HISTORY_LIMIT = 10_000
# Of more threads than this the oldest are forgotten, a tenth at once: first those that have ended.
THREAD_LIMIT = 20_000


class ServerState:
    """What is known of an organism. Queries are plain functions, updates coroutines; both from any thread.

    `history` bounds how many messages are kept to be read; counts go on.
    """

    def __init__(self, pump: Pump, *, history: int = HISTORY_LIMIT) -> None:
        self.pump = pump
        self.hub = feed.Hub()
        self._lock = RLock()
        self._status = OrganismStatus.STARTING
        self._started = time.monotonic()
        self._contracts: dict[str, InputContract] = {}
        self._sources: dict[str, object] = {}
        self._agents: dict[str, AgentRuntimeState] = {}
        self._threads: dict[str, ThreadRuntimeState] = {}
        self._messages: deque[MessageInfo] = deque(maxlen=history)
        self._ids: set[str] = set()
        self._message_count = 0
        self.sync_listeners()
        self._listening = False
        self.open()

    # -- the organism

    def set_running(self) -> None:
        """The organism runs."""
        self._status = OrganismStatus.RUNNING

    def set_stopping(self) -> None:
        """It was asked to stop."""
        self._status = OrganismStatus.STOPPING

    def set_stopped(self) -> None:
        """It has stopped."""
        self._status = OrganismStatus.STOPPED

    @property
    def kept(self) -> int:
        """How many messages are kept."""
        return len(self._messages)

    @property
    def name(self) -> str:
        """The organism's name."""
        return text_of(getattr(self.pump.config, "name", None), "organism")

    def get_organism_info(self) -> OrganismInfo:
        """The organism as a whole."""
        with self._lock:
            active = sum(thread.status is ThreadStatus.ACTIVE for thread in self._threads.values())
            return OrganismInfo(
                name=self.name,
                status=self._status,
                uptime_seconds=round(time.monotonic() - self._started, 3),
                agent_count=len(self._agents),
                active_threads=active,
                total_messages=self._message_count,
                identity_configured=getattr(self.pump, "identity", None) is not None,
            )

    def get_organism_config(self) -> dict[str, Any]:
        """The configuration without secrets; keys as in Python."""
        config = self.pump.config
        return {
            "name": self.name,
            "port": number_of(getattr(config, "port", None), DEFAULT_PORT),
            "listeners": list(self.pump.listeners),
            "thread_scheduling": text_of(getattr(config, "thread_scheduling", None), "breadth-first"),
            "max_concurrent_pipelines": number_of(getattr(config, "max_concurrent_pipelines", None), 50),
            "max_concurrent_handlers": number_of(getattr(config, "max_concurrent_handlers", None), 20),
        }

    # -- listeners

    def sync_listeners(self) -> tuple[list[str], list[str], list[str]]:
        """Take the pump's listeners as they are now; the names added, removed and changed."""
        with self._lock:
            now = dict(self.pump.listeners)
            added = [name for name in now if name not in self._sources]
            removed = [name for name in self._sources if name not in now]
            updated = [name for name, source in now.items() if name in self._sources and self._changed(name, source)]
            for name in removed:
                self._agents.pop(name, None)
                self._contracts.pop(name, None)
            for name in (*added, *updated):
                self._take_listener(name, now[name])
            self._sources = now
            return added, removed, updated

    def _changed(self, name: str, listener: object) -> bool:
        return self._sources[name] is not listener and self._contracts[name] != contract_of(name, listener)

    def _take_listener(self, name: str, listener: object) -> None:
        contract = self._contracts[name] = contract_of(name, listener)
        agent = self._agents.setdefault(name, AgentRuntimeState(name))
        agent.description = contract.description
        agent.is_agent = contract.is_agent
        agent.peers = list(contract.peers)
        agent.payload_class = contract.payload_class

    def get_contract(self, name: str) -> InputContract | None:
        """What a listener takes, None if unknown."""
        return self._contracts.get(name)

    def get_agents(self) -> list[AgentInfo]:
        """Every listener, whether agent or not."""
        with self._lock:
            return [agent.info() for agent in self._agents.values()]

    def get_agent(self, name: str) -> AgentInfo | None:
        """One listener, None if unknown."""
        with self._lock:
            agent = self._agents.get(name)
            return agent.info() if agent else None

    def get_capabilities(self) -> list[CapabilityInfo]:
        """What can be asked, sorted by name."""
        with self._lock:
            return [contract.capability() for _, contract in sorted(self._contracts.items())]

    def get_capability(self, name: str) -> CapabilityDetail | None:
        """One capability with its input contract, None if unknown."""
        contract = self._contracts.get(name)
        return contract.detail() if contract else None

    async def update_agent_state(self, name: str, state: AgentState | str, current_thread: str | None = None) -> None:
        """Note what a listener does now; an unknown name changes nothing."""
        self.note_agent_state(name, AgentState(state), current_thread)

    def note_agent_state(self, name: str, state: AgentState, current_thread: str | None) -> None:
        """The same, for callers that are no coroutines."""
        with self._lock:
            agent = self._agents.get(name)
            if agent is None:
                return
            agent.state, agent.current_thread = state, current_thread
            agent.last_activity = _now()
        self.hub.publish(feed.agent_event(name, state, current_thread))

    # -- threads

    def get_threads(
        self,
        status: ThreadStatus | str | None = None,
        agent: str | None = None,
        limit: int = 50,
        offset: int = 0,
        since: datetime | None = None,
    ) -> tuple[list[ThreadInfo], int]:
        """One page of threads, the newest first, and how many there are in all."""
        wanted = ThreadStatus(status) if status is not None else None
        with self._lock:
            found = [
                thread
                for thread in reversed(self._threads.values())
                if (wanted is None or thread.status is wanted)
                and (agent is None or agent in thread.participants)
                and (since is None or (thread.last_activity is not None and thread.last_activity >= since))
            ]
            return [thread.info() for thread in found[offset : offset + limit]], len(found)

    def get_thread(self, thread_id: str) -> ThreadInfo | None:
        """One thread, None if unknown."""
        with self._lock:
            thread = self._threads.get(thread_id)
            return thread.info() if thread else None

    async def complete_thread(
        self, thread_id: str, status: ThreadStatus | str = ThreadStatus.COMPLETED, error: str | None = None
    ) -> None:
        """Note how a thread ended; an unknown one, or one that was killed, changes nothing."""
        self.note_thread_status(thread_id, ThreadStatus(status), error)

    def note_thread_status(self, thread_id: str, status: ThreadStatus, error: str | None = None) -> None:
        """The same, for callers that are no coroutines."""
        with self._lock:
            thread = self._threads.get(thread_id)
            if thread is None or thread.status is ThreadStatus.KILLED:
                return
            thread.status = status
            thread.error = error
            thread.last_activity = _now()
            event = _updated(thread)
        self.hub.publish(event)

    def note_usage(self, name: str, event: Mapping[str, Any]) -> None:
        """Tell the clients of a `usage` or `budget` event as it is."""
        self.hub.publish(feed.usage_event(name, event))

    def note_error(self, thread_id: str | None, agent: str | None, error: str) -> None:
        """Tell the clients that something went wrong."""
        self.hub.publish(feed.error_event(thread_id, agent, error, _now().isoformat()))

    def note_not_taken(self, thread_id: str, agent: str, error: str) -> None:
        """An injected message that the pump did not take: its thread ends in error if it has nothing else."""
        thread = self.get_thread(thread_id)
        if thread is not None and thread.message_count == 1:
            self.note_thread_status(thread_id, ThreadStatus.ERROR, error)
        self.note_error(thread_id, agent, error)

    # -- messages

    def get_messages(
        self, thread_id: str | None = None, agent: str | None = None, limit: int = 50, offset: int = 0
    ) -> tuple[list[MessageInfo], int]:
        """One page and how many there are in all: a thread's in their order, everybody's with the newest first."""
        with self._lock:
            source = self._messages if thread_id is not None else reversed(self._messages)
            found = [
                message
                for message in source
                if (thread_id is None or message.thread_id == thread_id)
                and (agent is None or agent in (message.from_id, message.to_id))
            ]
        return found[offset : offset + limit], len(found)

    async def record_message(
        self,
        thread_id: str,
        from_id: str,
        to_id: str,
        payload_type: str,
        payload: object,
        message_id: str | None = None,
    ) -> str:
        """Log one message and tell the clients; returns its id. A thread not seen before begins."""
        return self.note_message(thread_id, from_id, to_id, payload_type, payload, message_id)

    def note_message(
        self,
        thread_id: str,
        from_id: str,
        to_id: str,
        payload_type: str,
        payload: object,
        message_id: str | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        revive: bool = False,
    ) -> str:
        """The same, for callers that are no coroutines; an id that is logged already changes nothing.

        `tags` are for a thread that begins; `revive` makes one that has ended active again.
        """
        now = _now()
        with self._lock:
            if message_id is not None and message_id in self._ids:
                return message_id
            thread, created = self._thread(thread_id, now)
            if created:
                thread.tags.update(tags or {})
            if revive and thread.status is not ThreadStatus.KILLED:
                thread.status, thread.error = ThreadStatus.ACTIVE, None
            message = MessageInfo(
                id=message_id or str(uuid4()),
                thread_id=thread_id,
                from_id=from_id,
                to_id=to_id,
                payload_type=payload_type,
                payload=json_object(payload),
                timestamp=now,
                slot_index=thread.message_count,
            )
            self._count(message, thread, now)
            events = [feed.message_event(message), _updated(thread)]
            if created:
                events.insert(0, feed.thread_created_event(thread.info()))
        for event in events:
            self.hub.publish(event)
        return message.id

    def _thread(self, thread_id: str, now: datetime) -> tuple[ThreadRuntimeState, bool]:
        thread = self._threads.get(thread_id)
        if thread is not None:
            return thread, False
        if len(self._threads) >= THREAD_LIMIT:
            self._forget_threads()
        thread = self._threads[thread_id] = ThreadRuntimeState(thread_id, created_at=now, last_activity=now)
        return thread, True

    def _forget_threads(self) -> None:
        """Those that were killed last of all: nothing is to enter them again."""
        for thread in sorted(self._threads.values(), key=_worth)[: THREAD_LIMIT // 10]:
            del self._threads[thread.id]

    def _count(self, message: MessageInfo, thread: ThreadRuntimeState, now: datetime) -> None:
        if len(self._messages) == self._messages.maxlen:
            self._ids.discard(self._messages[0].id)
        self._messages.append(message)
        self._ids.add(message.id)
        self._message_count += 1
        thread.message_count += 1
        thread.last_activity = now
        for name in (message.from_id, message.to_id):
            if name not in thread.participants:
                thread.participants.append(name)
        sender = self._agents.get(message.from_id)
        if sender is not None:
            sender.message_count += 1
            sender.last_activity = now

    # -- the pump

    def open(self) -> None:
        """Listen to the pump; a new state does already, one that was closed does again."""
        subscribe = getattr(self.pump, "subscribe_events", None)
        if callable(subscribe) and not self._listening:
            at_once(subscribe(self._on_event))
            self._listening = True

    def close(self) -> None:
        """Listen to the pump no longer."""
        unsubscribe = getattr(self.pump, "unsubscribe_events", None)
        if callable(unsubscribe) and self._listening:
            at_once(unsubscribe(self._on_event))
        self._listening = False

    def _on_event(self, event: object) -> Done:
        apply_event(self, event)
        return Done()


_ORDER = {ThreadStatus.ACTIVE: 1, ThreadStatus.KILLED: 2}


def _worth(thread: ThreadRuntimeState) -> tuple[int, float]:
    """What is forgotten first has the least."""
    last = thread.last_activity.timestamp() if thread.last_activity else 0.0
    return _ORDER.get(thread.status, 0), last


def _now() -> datetime:
    return datetime.now(UTC)


def _updated(thread: ThreadRuntimeState) -> feed.Event:
    return feed.thread_updated_event(thread.id, thread.status.value, thread.message_count, thread.participants)
