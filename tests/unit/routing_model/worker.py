"""A worker of the model: it takes one assignment, perhaps calls an LLM, publishes the turn, acknowledges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from uuid import UUID, uuid5

from tests.support import routing as given
from tests.unit.routing_model.broker import INGRESS, USAGE, Broker
from tests.unit.routing_model.chance import Chance
from tests.unit.routing_model.database import step
from tests.unit.routing_model.invariants import Answered
from tests.unit.routing_model.organism import ORGANISM, SPACE
from tests.unit.routing_model.router import Delivery
from xml_pipeline.envelope.model import Kind, Outcome, Output, Turn
from xml_pipeline.message_bus.messages import HoldRelease, HoldReply, HoldRequest, UsageEvent
from xml_pipeline.routing.items import TurnReport
from xml_pipeline.storage.routing_rows import Released

LONGEST_THREAD = 30
MOST_PATIENCE = 30
LIFETIME = 20.0


@dataclass(slots=True)
class Provider:
    """The truth about every call. `without_hold`: those that no ledger has granted anything for."""

    answered: dict[UUID, Answered] = field(default_factory=dict)
    without_hold: dict[UUID, Answered] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def new_id(self, what: str) -> UUID:
        """Of a turn, a call."""
        return uuid5(SPACE, f"{what} {next(self.numbers)}")


@dataclass(slots=True)
class Worker:
    """One process with one handler. `parked_for`: the tokens that no budget had for it, 0 where it goes on."""

    name: str
    broker: Broker
    chance: Chance
    provider: Provider
    parked_for: int = 0

    async def handle(self, listener: str) -> None:
        """One assignment, whatever it is by now: a worker has no database."""
        for delivery in self.broker.take(listener, self.name, 1):
            turn = await self._run(delivery)
            await self.broker.publish_until_confirmed(INGRESS, TurnReport(turn))
            self.broker.ack(self.name, listener, [delivery])

    async def _run(self, delivery: Delivery) -> Turn:
        await step("handle", delivery)
        message = delivery.released
        well = True
        for _ in range(self.chance.pick((0, 0, 0, 1, 1, 2))):
            well = well and await self._complete(message)
            if self.parked_for:
                turn_id = self.provider.new_id("turn")
                return Turn(turn_id, message.id, message.attempt, Outcome.PARKED, asked=self.parked_for)
        outcome = self.chance.pick((Outcome.OK,) * 4 + (Outcome.ERROR, Outcome.TIMEOUT)) if well else Outcome.ERROR
        outputs = self._outputs(message) if outcome is Outcome.OK else ()
        return Turn(self.provider.new_id("turn"), message.id, message.attempt, outcome, outputs)

    def _outputs(self, message: Released) -> tuple[Output, ...]:
        if not ORGANISM.listeners[message.to_id].responds:
            return ()
        answer = given.respond(given.reply(message.to_id))
        if message.kind != "request" or message.slot > LONGEST_THREAD:
            return self.chance.pick(((answer,), (answer,), ()))
        peers = ORGANISM.listeners[message.to_id].peers
        asks = tuple(given.ask(self.chance.pick(peers)) for _ in range(1 + self.chance.below(3)))
        wrong = Output(Kind.REQUEST, "nobody", b"<wrong/>")
        return self.chance.pick(((answer,), asks, asks, asks, (*asks, answer), (wrong,), ()))

    # What an LLM call does: hold, call, settle

    async def _complete(self, message: Released) -> bool:
        """Whether the handler got an answer."""
        call = self.provider.new_id("call")
        prompt, completion = 10 + self.chance.below(30), 5 + self.chance.below(20)
        asked = HoldRequest(
            call_id=call,
            message_id=message.id,
            model="m",
            provider="p",
            prompt_bound=prompt,
            max_completion=completion,
            lifetime=LIFETIME,
        )
        reply = await self._hold(asked)
        if reply is None:
            await self.broker.publish_until_confirmed(USAGE, HoldRelease(call_id=call))
            return False
        if reply.state != "granted" or reply.granted_at is None:
            # Whether the configuration wants it so is all the same to everybody else.
            self.parked_for = reply.asked if self.chance.happens(70) else 0
            return False
        return await self._call(asked, reply.granted_at)

    async def _hold(self, asked: HoldRequest) -> HoldReply | None:
        """Ask until it is decided, or the handler's time is over."""
        for patience in range(MOST_PATIENCE):
            if patience == 0 or self.chance.happens(10):
                await self.broker.publish(USAGE, asked)
            await step("wait for the answer to", asked)
            reply: HoldReply | None = self.broker.replies.pop(asked.call_id, None)
            if reply is not None and reply.state != "wait":
                return reply
        return None

    async def _call(self, asked: HoldRequest, granted_at: datetime) -> bool:
        await step("call the provider after", asked)
        fate = self.chance.pick(("answers",) * 4 + ("refuses", "answers too late", "is never heard of"))
        if fate == "refuses":
            await self.broker.publish_until_confirmed(USAGE, HoldRelease(call_id=asked.call_id))
            return False
        if fate == "is never heard of":
            return False
        used = Answered(1 + self.chance.below(asked.prompt_bound), self.chance.below(asked.max_completion + 1))
        self.provider.answered[asked.call_id] = used
        if fate == "answers too late":
            return False
        await self.broker.publish_until_confirmed(USAGE, usage_event(asked.call_id, asked.message_id, granted_at, used))
        return True


def usage_event(call: UUID, message: UUID, granted_at: datetime, used: Answered) -> UsageEvent:
    """What a worker tells of a call."""
    return UsageEvent(
        call_id=call,
        message_id=message,
        granted_at=granted_at,
        model="m",
        provider="p",
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        latency_ms=1.5,
    )
