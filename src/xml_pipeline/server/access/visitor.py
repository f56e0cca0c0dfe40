"""Who is behind a request."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from xml_pipeline.access.keys import ApiKey
from xml_pipeline.server.access.table import role_of
from xml_pipeline.server.refusals import role_too_small

_NOBODY_IN_PARTICULAR = "api"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who was let in: by a key, or, where none is needed, anybody, who may do everything."""

    key: ApiKey | None = None

    @property
    def actor(self) -> str:
        """As what the audit log knows the visitor."""
        return f"key {self.key.id} ({self.key.name})" if self.key else _NOBODY_IN_PARTICULAR

    def require(self, operation: str) -> None:
        """Raises Problem 403 where the key's role is too small."""
        needed = role_of(operation)
        if self.key is not None and needed is not None and not self.key.role.includes(needed):
            raise role_too_small(self.key.role, needed)


def act_as(visitor: Visitor) -> None:
    """From here on, in this task and those that begin in it, the visitor acts."""
    _actor.set(visitor.actor)


def current_actor() -> str:
    """Who acts here, for the audit log."""
    return _actor.get()


_actor: ContextVar[str] = ContextVar("actor", default=_NOBODY_IN_PARTICULAR)
