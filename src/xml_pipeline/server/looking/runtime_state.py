"""What a state remembers of each listener and each thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from xml_pipeline.server.models import AgentInfo, AgentState, ThreadInfo, ThreadStatus


@dataclass(slots=True)
class AgentRuntimeState:
    """A listener and what it was last seen to do."""

    name: str
    description: str = ""
    is_agent: bool = False
    peers: list[str] = field(default_factory=list)
    payload_class: str = ""
    state: AgentState = AgentState.IDLE
    current_thread: str | None = None
    queue_depth: int = 0
    last_activity: datetime | None = None
    message_count: int = 0

    def info(self) -> AgentInfo:
        """As the API tells it."""
        return AgentInfo(
            name=self.name,
            description=self.description,
            is_agent=self.is_agent,
            peers=list(self.peers),
            payload_class=self.payload_class,
            state=self.state,
            current_thread=self.current_thread,
            queue_depth=self.queue_depth,
            last_activity=self.last_activity,
            message_count=self.message_count,
        )


@dataclass(slots=True)
class ThreadRuntimeState:
    """One conversation as far as it was seen."""

    id: str
    status: ThreadStatus = ThreadStatus.ACTIVE
    participants: list[str] = field(default_factory=list)
    message_count: int = 0
    created_at: datetime | None = None
    last_activity: datetime | None = None
    error: str | None = None
    tags: dict[str, str] = field(default_factory=dict)

    def info(self) -> ThreadInfo:
        """As the API tells it."""
        return ThreadInfo(
            id=self.id,
            status=self.status,
            participants=list(self.participants),
            message_count=self.message_count,
            created_at=self.created_at,
            last_activity=self.last_activity,
            error=self.error,
            tags=dict(self.tags),
        )
