"""A broker: queues that redeliver what was not acknowledged, and lose what is purged. It knows nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from tests.unit.routing_model.chance import Chance
from tests.unit.routing_model.database import step

INGRESS = "ingress"
USAGE = "usage"


@dataclass(slots=True)
class Broker:
    """`promised`: what it has confirmed, and nobody has thrown away."""

    chance: Chance
    queues: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    unacked: dict[str, list[tuple[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    replies: dict[UUID, Any] = field(default_factory=dict)
    promised: set[Hashable] = field(default_factory=set)

    async def publish(self, queue: str, body: Any) -> bool:
        """Whether it was confirmed. Without a confirm it may be there, or not."""
        await step("publish", body)
        confirmed = self._publish(queue, body)
        await step("see the confirm" if confirmed else "see that no confirm comes")
        return confirmed

    async def publish_many(self, bodies: Sequence[tuple[str, Any]]) -> list[bool]:
        """Many at once: whoever dies afterwards has seen no confirm of any."""
        await step("publish", *(body for _, body in bodies))
        outcomes = [self._publish(queue, body) for queue, body in bodies]
        await step("see which are confirmed", *outcomes)
        return outcomes

    async def publish_until_confirmed(self, queue: str, body: Any) -> None:
        """What is lost on the way is sent again; what only seemed to be lost is there twice."""
        while not await self.publish(queue, body):
            pass

    def _publish(self, queue: str, body: Any) -> bool:
        fate = self.chance.pick(("confirmed",) * 8 + ("unknown", "lost"))
        if fate != "lost":
            self.deliver(queue, body)
        if fate == "confirmed":
            self.promised.add(body)
        return fate == "confirmed"

    def deliver(self, queue: str, body: Any) -> None:
        """It is there."""
        self.queues[queue].append(body)

    def take(self, queue: str, owner: str, most: int) -> list[Any]:
        """Some of what is ready, in whatever order: redeliveries and many publishers leave none."""
        ready = self.queues[queue]
        taken: list[Any] = []
        while ready and len(taken) < most:
            taken.append(ready.pop(self.chance.below(len(ready))))
        self.unacked[owner] += [(queue, body) for body in taken]
        return taken

    def ack(self, owner: str, queue: str, bodies: Sequence[Any]) -> None:
        """These are done."""
        for body in bodies:
            self.unacked[owner].remove((queue, body))

    def gone(self, owner: str) -> None:
        """A consumer died: what it had not acknowledged is delivered again."""
        for queue, body in self.unacked.pop(owner, []):
            self.queues[queue].insert(0, body)

    def depth(self, queue: str) -> int:
        """How many are ready; what consumers hold does not count."""
        return len(self.queues[queue])

    def purge(self, queue: str) -> None:
        """Somebody empties a queue."""
        self.promised.difference_update(self.queues[queue])
        self.queues[queue].clear()

    @property
    def idle(self) -> bool:
        """Whether nothing is anywhere."""
        return not any(self.queues.values()) and not any(self.unacked.values())
