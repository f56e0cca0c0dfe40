"""The view of a pump's state: answered from memory; what the pump does not offer, the state alone records."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from uuid import uuid4

from xml_pipeline.envelope.model import API
from xml_pipeline.envelope.text import check_text
from xml_pipeline.errors import InvalidPayload, XmlPipelineError
from xml_pipeline.message_bus import get_budget_registry
from xml_pipeline.server import models
from xml_pipeline.server.contracts import check_json
from xml_pipeline.server.feed import Event, Hub, Subscription, to_json
from xml_pipeline.server.looking.calls import call_inject, call_steering, said
from xml_pipeline.server.looking.letters import NoLetters
from xml_pipeline.server.looking.usage import ProcessUsage
from xml_pipeline.server.models import AgentState, ThreadStatus
from xml_pipeline.server.problems import Problem
from xml_pipeline.server.pump import offered
from xml_pipeline.server.refusals import (
    budget_exhausted,
    key_used_differently,
    tags_differ,
    thread_killed,
    unknown_target,
)
from xml_pipeline.server.state import ServerState
from xml_pipeline.server.view import Inject, LetterStore, Page, ThreadQuery, UsageStore

_KEYS_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class _Accepted:
    digest: bytes
    thread_id: str
    message_id: str


class StateView:
    """An organism as a `ServerState` knows it."""

    def __init__(self, state: ServerState, usage: UsageStore | None = None) -> None:
        self.state = state
        self._usage: UsageStore = usage or ProcessUsage(state.get_thread)
        self._letters = NoLetters()
        self._accepted: OrderedDict[str, _Accepted] = OrderedDict()

    @property
    def hub(self) -> Hub:
        """The live events."""
        return self.state.hub

    @property
    def usage(self) -> UsageStore:
        """What was used."""
        return self._usage

    @property
    def letters(self) -> LetterStore:
        """None are kept."""
        return self._letters

    async def health(self) -> models.HealthInfo:
        """Nothing is behind it that could be gone."""
        return models.HealthInfo(organism=self.state.name)

    async def alive(self) -> models.HealthReport:
        """It answers, so it is."""
        return models.HealthReport()

    async def ready(self) -> models.HealthReport:
        """It answers, so it is."""
        return models.HealthReport()

    async def organism(self) -> models.OrganismInfo:
        """The organism as a whole."""
        return self.state.get_organism_info()

    async def config(self) -> models.OrganismConfig:
        """The configuration without secrets."""
        return models.OrganismConfig(**self.state.get_organism_config())

    async def agents(self) -> list[models.AgentInfo]:
        """Every listener."""
        return self.state.get_agents()

    async def agent(self, name: str) -> models.AgentInfo | None:
        """One listener."""
        return self.state.get_agent(name)

    async def capabilities(self) -> list[models.CapabilityInfo]:
        """Sorted by name."""
        return self.state.get_capabilities()

    async def capability(self, name: str) -> models.CapabilityDetail | None:
        """One, with its input contract."""
        return self.state.get_capability(name)

    async def threads(self, query: ThreadQuery, page: Page) -> tuple[list[models.ThreadInfo], int]:
        """One page, the newest first."""
        return self.state.get_threads(query.status, query.agent, page.limit, page.offset, query.since)

    async def thread(self, thread_id: str) -> models.ThreadInfo | None:
        """One thread."""
        return self.state.get_thread(thread_id)

    async def messages(
        self, thread_id: str | None, agent: str | None, page: Page
    ) -> tuple[list[models.MessageInfo], int]:
        """One page of the history."""
        return self.state.get_messages(thread_id, agent, page.limit, page.offset)

    async def inject(self, inject: Inject) -> models.InjectAnswer:
        """Check, hand to the pump if it takes injects, record; the same key again gives the same answer."""
        accepted = await self._accept(inject)
        answer = models.InjectAnswer(thread_id=accepted.thread_id, message_id=accepted.message_id)
        if inject.wait > 0:
            answer.reply = await self._reply(accepted, inject.wait)
        return answer

    async def _accept(self, inject: Inject) -> _Accepted:
        known = self._known(inject)
        if known:
            return known
        contract = self.state.get_contract(inject.to)
        if contract is None:
            raise unknown_target(inject.to)
        contract.check(inject.payload)
        thread_id = inject.thread_id or str(uuid4())
        check_text(thread_id)
        self._refuse(thread_id, inject.tags)
        accepted = _Accepted(_digest(inject), thread_id, str(uuid4()))
        self._remember(inject.key, accepted)
        self.state.note_message(
            thread_id,
            API,
            inject.to,
            contract.root_tag,
            inject.payload,
            accepted.message_id,
            tags=inject.tags,
            revive=True,
        )
        await self._hand_over(inject, accepted)
        return accepted

    async def _hand_over(self, inject: Inject, accepted: _Accepted) -> None:
        method = offered(self.state.pump, "inject")
        if method is None:
            return
        try:
            await call_inject(
                method,
                to=inject.to,
                payload=dict(inject.payload),
                thread_id=accepted.thread_id,
                message_id=accepted.message_id,
            )
        except BaseException as error:
            if inject.key:
                self._accepted.pop(inject.key, None)
            self.state.note_not_taken(accepted.thread_id, inject.to, said(error))
            raise

    def _known(self, inject: Inject) -> _Accepted | None:
        known = self._accepted.get(inject.key) if inject.key else None
        if known and known.digest != _digest(inject):
            raise key_used_differently()
        return known

    def _remember(self, key: str | None, accepted: _Accepted) -> None:
        if key:
            self._accepted[key] = accepted
            if len(self._accepted) > _KEYS_KEPT:
                self._accepted.popitem(last=False)

    def _refuse(self, thread_id: str, tags: Mapping[str, str] | None) -> None:
        """A thread that was killed, has other tags, or could do nothing for want of tokens."""
        thread = self.state.get_thread(thread_id)
        if thread and thread.status is ThreadStatus.KILLED:
            raise thread_killed(thread_id)
        budget = get_budget_registry().budget(thread_id)
        if budget and budget.is_exhausted and offered(self.state.pump, "inject"):
            raise budget_exhausted("thread", thread_id, budget.max_tokens, budget.total_tokens, thread_id)
        if thread and tags is not None and dict(tags) != thread.tags:
            raise tags_differ(thread_id)

    async def _reply(self, accepted: _Accepted, seconds: float) -> models.MessageInfo | None:
        """The first message back to the caller in that thread after the inject."""
        subscription = self.hub.subscribe(lambda event: "" if _answers(event, accepted.thread_id) else None)
        try:
            return await self._wait_for_reply(accepted, seconds, subscription)
        finally:
            self.hub.unsubscribe(subscription)

    async def _wait_for_reply(
        self, accepted: _Accepted, seconds: float, subscription: Subscription
    ) -> models.MessageInfo | None:
        deadline = time.monotonic() + seconds
        while True:
            found = self._back_to_caller(accepted)
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await subscription.wait()
            subscription.take()

    def _back_to_caller(self, accepted: _Accepted) -> models.MessageInfo | None:
        messages, _ = self.state.get_messages(accepted.thread_id, limit=self.state.kept)
        after = False
        for message in messages:
            if after and message.to_id == API:
                return message
            after = after or message.id == accepted.message_id
        return None

    async def pause(self, name: str) -> bool:
        """The pump's pause if it has one, and the state's."""
        return await self._steer_agent("pause", name, AgentState.PAUSED)

    async def resume(self, name: str) -> bool:
        """The pump's resume if it has one, and the state's."""
        return await self._steer_agent("resume", name, AgentState.IDLE)

    async def _steer_agent(self, what: str, name: str, state: AgentState) -> bool:
        agent = self.state.get_agent(name)
        if agent is None:
            return False
        await self._ask(what, name)
        self.state.note_agent_state(name, state, agent.current_thread if state is AgentState.PAUSED else None)
        return True

    async def kill(self, thread_id: str) -> bool:
        """The pump's kill if it has one, and the state's."""
        if self.state.get_thread(thread_id) is None:
            return False
        await self._ask("kill", thread_id)
        self.state.note_thread_status(thread_id, ThreadStatus.KILLED)
        return True

    async def stop(self) -> None:
        """The pump's stop if it has one, and the state's."""
        await self._ask("stop")
        self.state.set_stopping()

    async def reload(self) -> models.ReloadAnswer:
        """The pump's reload if it has one; what changed among its listeners is found by looking."""
        try:
            told = await self._ask("reload")
        except (Problem, XmlPipelineError) as failure:
            return models.ReloadAnswer(success=False, error=_reason(failure))
        added, removed, updated = self.state.sync_listeners()
        error = _told(told, "error")
        if _told(told, "success") is False or error is not None:
            return models.ReloadAnswer(success=False, error=str(error or "the pump refused"))
        return models.ReloadAnswer(
            added=_names(told, "added", added),
            removed=_names(told, "removed", removed),
            updated=_names(told, "updated", updated),
        )

    async def _ask(self, what: str, *args: str) -> object:
        method = offered(self.state.pump, what)
        return await call_steering(what, method, *args) if method else None


def _answers(event: Event, thread_id: str) -> bool:
    return event.name == "message" and thread_id in event.threads and API in event.agents


def _digest(inject: Inject) -> bytes:
    try:
        sent = {"to": inject.to, "payload": inject.payload, "threadId": inject.thread_id}
        text = to_json(sent if inject.tags is None else {**sent, "tags": inject.tags})
        return hashlib.sha256(text.encode()).digest()
    except ValueError:
        check_json(inject.payload)
        raise InvalidPayload([]) from None


def _reason(error: Exception) -> str:
    return said(error.__cause__ or error)


def _told(told: object, key: str) -> object:
    value = told.get(key) if isinstance(told, Mapping) else getattr(told, key, None)
    return value if isinstance(value, bool | str | list | tuple) else None


def _names(told: object, key: str, found: list[str]) -> list[str]:
    value = _told(told, key)
    return [str(name) for name in value] if isinstance(value, list | tuple) else found
