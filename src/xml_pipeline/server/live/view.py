"""The view of a gateway: lists and history from PostgreSQL, what lives from the feed, steering as rows with hints."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime

from xml_pipeline.envelope.model import API
from xml_pipeline.errors import DatabaseUnavailable
from xml_pipeline.health.health import Health
from xml_pipeline.logs import logs_about
from xml_pipeline.message_bus.messages import ControlHint
from xml_pipeline.message_bus.port import Bus
from xml_pipeline.server import models
from xml_pipeline.server.access.visitor import current_actor
from xml_pipeline.server.feed import Hub, dumped
from xml_pipeline.server.live.configured import Current
from xml_pipeline.server.live.feed import LiveFeed
from xml_pipeline.server.live.history import read_history
from xml_pipeline.server.live.injector import Injector
from xml_pipeline.server.live.injects import prepare, refused
from xml_pipeline.server.live.letters import LiveLetters
from xml_pipeline.server.live.metrics import GatewayMetrics
from xml_pipeline.server.live.outbox import Outbox
from xml_pipeline.server.live.paced import Paced
from xml_pipeline.server.live.records import message_info, thread_info
from xml_pipeline.server.live.reload import Reloader
from xml_pipeline.server.live.traces import accepted_spans, parent_of_envelope
from xml_pipeline.server.live.usage import LiveUsage, as_uuid, storable
from xml_pipeline.server.view import Inject, LetterStore, Page, ThreadQuery, UsageStore
from xml_pipeline.storage import inbox, listeners, messages, organism_state, threads
from xml_pipeline.storage.database import Database
from xml_pipeline.tracing.ids import trace_of
from xml_pipeline.tracing.port import OFF, Tracing

_HEALTH_TIMEOUT = 2.0
# How soon, in seconds, a waiting caller looks into the database, and how seldom: the feed usually tells first.
_FIRST_LOOK = 0.5
_SELDOM = 4.0
# How long, in seconds, such a look may take: the caller has its ids already.
_LOOK = 2.0


class LiveView:
    """An organism of services, seen and steered through one gateway."""

    def __init__(
        self,
        bus: Bus,
        db: Database,
        current: Current,
        feed: LiveFeed,
        hub: Hub,
        outbox: Outbox,
        started_at: datetime,
        health: Health,
        metrics: GatewayMetrics,
        tracing: Tracing = OFF,
    ) -> None:
        self._bus = bus
        self._db = db
        self.current = current
        self._feed = feed
        self._hub = hub
        self._outbox = outbox
        self._started_at = started_at
        self._health = health
        self._began = time.monotonic()
        self._usage = LiveUsage(db, current, outbox)
        self._tracing = tracing
        self._letters = LiveLetters(db, current, outbox, tracing)
        self.reloader = Reloader(bus, db, current, outbox)
        self.injector = Injector(db, current, metrics)
        self._activity = Paced(self._read_activity)
        self._message_count = Paced(self._read_message_count)

    @property
    def hub(self) -> Hub:
        """The live events."""
        return self._hub

    @property
    def usage(self) -> UsageStore:
        """What was used."""
        return self._usage

    @property
    def letters(self) -> LetterStore:
        """What could not be handled."""
        return self._letters

    # -- the organism

    async def health(self) -> models.HealthInfo:
        """Whether the parts behind the gateway answer; the broker may be gone and injects are still accepted."""
        database = await self._database_answers()
        broker = self._bus.connected and self._feed.healthy
        return models.HealthInfo(
            status="healthy" if database else "unhealthy",
            organism=self.current.organism.name,
            broker="up" if broker else "down",
            database="up" if database else "down",
        )

    async def _database_answers(self) -> bool:
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT):
                await self._db.ping()
        except (DatabaseUnavailable, TimeoutError):
            return False
        return True

    async def alive(self) -> models.HealthReport:
        """Whether the loops of this process make progress."""
        return models.HealthReport.model_validate(self._health.alive().as_json())

    async def ready(self) -> models.HealthReport:
        """Whether requests are served."""
        return models.HealthReport.model_validate(self._health.ready().as_json())

    async def organism(self) -> models.OrganismInfo:
        """The organism as a whole."""
        async with self._db.begin() as connection:
            state = await organism_state.read_state(connection)
            active = await threads.count_active(connection)
        organism = self.current.organism
        return models.OrganismInfo(
            name=organism.name,
            status=self._status(stopping=state.stops(self._started_at)),
            uptime_seconds=round(time.monotonic() - self._began, 3),
            agent_count=len(organism.listeners),
            active_threads=active,
            total_messages=await self._message_count.get(),
        )

    def _status(self, *, stopping: bool) -> models.OrganismStatus:
        if stopping:
            return models.OrganismStatus.STOPPING
        complete = self._feed.presence.is_complete(self.current.organism.listeners.keys(), time.monotonic())
        return models.OrganismStatus.RUNNING if complete else models.OrganismStatus.STARTING

    async def _read_message_count(self) -> int:
        async with self._db.begin() as connection:
            return await messages.count_messages(connection)

    async def config(self) -> models.OrganismConfig:
        """The configuration without secrets."""
        organism = self.current.organism
        return models.OrganismConfig(
            name=organism.name,
            port=organism.port,
            listeners=list(organism.listeners),
            thread_scheduling=organism.thread_scheduling,
            max_concurrent_pipelines=organism.max_concurrent_pipelines,
            max_concurrent_handlers=organism.max_concurrent_handlers,
        )

    async def stop(self) -> None:
        """Ask every service to drain and end."""
        async with self._db.begin() as connection:
            await organism_state.request_stop(connection, actor=current_actor())
        self._outbox.hint(ControlHint(kind="stop"))

    async def reload(self) -> models.ReloadAnswer:
        """Read the file again and put it in force everywhere."""
        return await self.reloader.reload()

    # -- listeners

    async def agents(self) -> list[models.AgentInfo]:
        """Every listener and what it does."""
        async with self._db.begin() as connection:
            work = await listeners.work(connection)
        activity = await self._activity.get()
        return [self._agent(name, work, activity) for name in self.current.value.contracts]

    async def agent(self, name: str) -> models.AgentInfo | None:
        """One listener and what it does."""
        if name not in self.current.value.contracts:
            return None
        return next((agent for agent in await self.agents() if agent.name == name), None)

    async def _read_activity(self) -> Mapping[str, listeners.Activity]:
        async with self._db.begin() as connection:
            return await listeners.activity(connection)

    def _agent(
        self, name: str, work: Mapping[str, listeners.Work], activity: Mapping[str, listeners.Activity]
    ) -> models.AgentInfo:
        agent = models.AgentInfo(**self.current.value.contracts[name].config().model_dump())
        if name in work:
            agent.state = models.AgentState(work[name].state)
            agent.queue_depth = work[name].queue_depth
            thread = work[name].current_thread
            agent.current_thread = str(thread) if thread else None
        if name in activity:
            agent.message_count = activity[name].message_count
            agent.last_activity = activity[name].last_activity
        return agent

    async def capabilities(self) -> list[models.CapabilityInfo]:
        """Sorted by name."""
        return [contract.capability() for _, contract in sorted(self.current.value.contracts.items())]

    async def capability(self, name: str) -> models.CapabilityDetail | None:
        """One, with its input contract."""
        contract = self.current.value.contracts.get(name)
        return contract.detail() if contract else None

    async def pause(self, name: str) -> bool:
        """A row, then a hint."""
        return await self._set_paused(name, paused=True)

    async def resume(self, name: str) -> bool:
        """A row, then a hint."""
        return await self._set_paused(name, paused=False)

    async def _set_paused(self, name: str, *, paused: bool) -> bool:
        if name not in self.current.value.contracts:
            return False
        async with self._db.begin() as connection:
            changed = await listeners.set_paused(connection, name, paused, actor=current_actor())
        if changed:
            state = models.AgentState.PAUSED if paused else models.AgentState.IDLE
            self._outbox.hint(ControlHint(kind="pause" if paused else "resume", name=name))
            self._outbox.events([{"event": "agent_state", "agent": name, "state": state.value, "currentThread": None}])
        return changed

    # -- threads and messages

    async def threads(self, query: ThreadQuery, page: Page) -> tuple[list[models.ThreadInfo], int]:
        """One page, the newest first."""
        if query.agent is not None and not storable(query.agent):
            return [], 0
        async with self._db.snapshot() as connection:
            found = await threads.list_threads(
                connection,
                status=query.status.value if query.status else None,
                agent=query.agent,
                since=query.since,
                limit=page.limit,
                offset=page.offset,
            )
        return [thread_info(record) for record in found.items], found.total

    async def thread(self, thread_id: str) -> models.ThreadInfo | None:
        """One thread."""
        id_ = as_uuid(thread_id)
        if id_ is None:
            return None
        async with self._db.begin() as connection:
            record = await threads.get_thread(connection, id_)
        return thread_info(record) if record else None

    async def messages(
        self, thread_id: str | None, agent: str | None, page: Page
    ) -> tuple[list[models.MessageInfo], int]:
        """One page of the history."""
        id_ = as_uuid(thread_id) if thread_id is not None else None
        if (thread_id is not None and id_ is None) or (agent is not None and not storable(agent)):
            return [], 0
        async with self._db.snapshot() as connection:
            return await read_history(connection, self.current.value, id_, agent, page)

    async def kill(self, thread_id: str) -> bool:
        """A row, then a hint."""
        id_ = as_uuid(thread_id)
        if id_ is None:
            return False
        async with self._db.begin() as connection:
            killed = await threads.kill_thread(connection, id_, actor=current_actor())
        if killed is None:
            return False
        self._outbox.hint(ControlHint(kind="kill", thread_id=id_))
        info = thread_info(killed.thread)
        self._outbox.events(
            [
                {
                    "event": "thread_updated",
                    "threadId": info.id,
                    "status": info.status.value,
                    "messageCount": info.message_count,
                    "participants": info.participants,
                }
            ]
        )
        return True

    # -- injects

    async def inject(self, inject: Inject) -> models.InjectAnswer:
        """Committed with others, then published; wait for what comes back, if that is wanted."""
        began = time.time_ns()
        row = prepare(inject, self.current.value, self._tracing)
        with logs_about(row.thread_id, row.id), self._feed.waiting_for_reply(str(row.id)) as coming:
            accepted = await self.injector.accept(row)
            if not isinstance(accepted, inbox.Accepted):
                raise refused(accepted, row, self.current.organism)
            self._announce(accepted, row)
            if self._tracing.on:
                self._trace(accepted, inject, began)
            answer = models.InjectAnswer(thread_id=str(accepted.thread_id), message_id=str(accepted.message_id))
            if inject.wait > 0:
                answer.reply = await self._reply(accepted, coming, inject.wait)
        return answer

    def _announce(self, accepted: inbox.Accepted, row: inbox.Inject) -> None:
        if accepted.repeated:
            return
        if accepted.created_at is not None:
            thread = models.ThreadInfo(
                id=str(accepted.thread_id),
                participants=[API, row.to_id],
                created_at=accepted.created_at,
                last_activity=accepted.created_at,
                tags=dict(row.tags or {}),
            )
            self._outbox.events([{"event": "thread_created", "thread": dumped(thread)}])
        parent = parent_of_envelope(row.thread_id, row.id, self._tracing)
        self._outbox.inject(str(accepted.message_id), row.body, parent)

    def _trace(self, accepted: inbox.Accepted, inject: Inject, began_ns: int) -> None:
        """What was accepted before has been told; who asks again hears of it in his own trace alone."""
        spans = accepted_spans(
            "inject",
            accepted.thread_id,
            accepted.message_id,
            inject.to,
            (began_ns, time.time_ns()),
            begins=accepted.created_at is not None,
            client=inject.traceparent,
        )
        trace_id = trace_of(accepted.thread_id)
        self._tracing.tell(span for span in spans if not accepted.repeated or span.trace_id != trace_id)

    async def _reply(
        self, accepted: inbox.Accepted, coming: asyncio.Future[models.MessageInfo | None], seconds: float
    ) -> models.MessageInfo | None:
        deadline, pause = time.monotonic() + seconds, _FIRST_LOOK
        while True:
            left = deadline - time.monotonic()
            # `asyncio.wait` leaves the future as it is when time is up: others may wait for it too.
            await asyncio.wait([coming], timeout=max(0.0, min(pause, left)))
            told = coming.result() if coming.done() else None
            reply = told or await self._stored_reply(accepted)
            if reply is not None or left <= 0 or coming.done():
                return reply
            pause = min(2 * pause, _SELDOM) if self._feed.healthy else _FIRST_LOOK

    async def _stored_reply(self, accepted: inbox.Accepted) -> models.MessageInfo | None:
        try:
            async with self._db.within(_LOOK).begin() as connection:
                record = await messages.reply_to(connection, accepted.message_id)
        except DatabaseUnavailable:
            # It was accepted: the caller gets the ids when time is up.
            return None
        return message_info(record, self.current.value) if record else None
