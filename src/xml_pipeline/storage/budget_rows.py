"""The nodes of the tree of budgets, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum
from uuid import UUID, uuid5

ORGANISM_ID = UUID("50c5b1d9-7c0f-5a57-8c0e-2f6f4f2a6d11")


class Level(IntEnum):
    """How deep a node is. Locks are taken from the deepest up: what everybody shares is held shortest."""

    ORGANISM = 0
    TAG = 1
    THREAD = 2
    AGENT = 3


@dataclass(frozen=True, slots=True)
class Budget:
    """The tokens of one node. `available + held + spent = max_tokens`, always; overspent, `available` is negative.

    `ancestors` are the ids of the nodes above. `fired` is the highest threshold told of, in percent; `cost` is in USD.
    """

    id: UUID
    level: Level
    max_tokens: int
    ancestors: tuple[UUID, ...] = ()
    thread_id: UUID | None = None
    agent_id: str | None = None
    tag_key: str | None = None
    tag_value: str | None = None
    held: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0
    cost: Decimal = Decimal(0)
    fired: int = 0

    @property
    def spent(self) -> int:
        """Tokens booked."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def available(self) -> int:
        """Tokens that a new hold may take."""
        return self.max_tokens - self.held - self.spent

    @property
    def left(self) -> int:
        """Tokens not spent, at least 0."""
        return max(0, self.max_tokens - self.spent)

    @property
    def tags(self) -> tuple[UUID, ...]:
        """The ids of a thread's tags, or of those of an agent's thread."""
        return tuple(id_ for id_ in self.ancestors if id_ not in {ORGANISM_ID, self.thread_id})

    @property
    def name(self) -> str:
        """What the node is called: `organism`, `team=blue`, a thread's id, or an agent's name in a thread."""
        match self.level:
            case Level.ORGANISM:
                return "organism"
            case Level.TAG:
                return f"{self.tag_key}={self.tag_value}"
            case Level.THREAD:
                return str(self.thread_id)
            case Level.AGENT:
                return f"{self.agent_id} in {self.thread_id}"


def organism_node(max_tokens: int) -> Budget:
    """The root."""
    return Budget(ORGANISM_ID, Level.ORGANISM, max_tokens)


def tag_node(key: str, value: str, max_tokens: int) -> Budget:
    """What the threads with one tag share."""
    id_ = uuid5(ORGANISM_ID, f"{key}\n{value}")
    return Budget(id_, Level.TAG, max_tokens, (ORGANISM_ID,), tag_key=key, tag_value=value)


def thread_node(thread_id: UUID, tags: Mapping[str, str], max_tokens: int) -> Budget:
    """A thread below the organism and its tags."""
    above = (ORGANISM_ID, *(uuid5(ORGANISM_ID, f"{key}\n{value}") for key, value in sorted(tags.items())))
    return Budget(thread_id, Level.THREAD, max_tokens, above, thread_id=thread_id)


def agent_node(thread: Budget, agent_id: str, max_tokens: int) -> Budget:
    """An agent within a thread."""
    id_ = agent_node_id(thread.id, agent_id)
    above = (*thread.ancestors, thread.id)
    return Budget(id_, Level.AGENT, max_tokens, above, thread_id=thread.id, agent_id=agent_id)


def agent_node_id(thread_id: UUID, agent_id: str) -> UUID:
    """The id of an agent's node within a thread."""
    return uuid5(thread_id, agent_id)
