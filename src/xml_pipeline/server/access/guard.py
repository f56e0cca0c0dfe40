"""The guard of a gateway: lets in who has a key that may do what is asked, and watches those who stay."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import structlog

from xml_pipeline.access.decisions import Headers, host_is_ours, origin_is_ours, presented_secrets
from xml_pipeline.access.keys import ApiKey
from xml_pipeline.server.access.keyring import Keyring
from xml_pipeline.server.access.table import role_of
from xml_pipeline.server.access.visitor import Visitor, act_as
from xml_pipeline.server.refusals import host_not_ours, key_missing, key_unknown, origin_not_ours

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Stay:
    """Somebody who was let in for longer. `ended` is set once that no longer holds; `unsure`: it is not known."""

    visitor: Visitor
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    unsure: bool = False


class Guard:
    """Asks for keys as soon as there is, or was, one; before that it is open to this machine, and to no web page.

    An `exposed` gateway is never open: others than this machine reach it.
    """

    def __init__(self, keyring: Keyring, *, exposed: bool, allowed_hosts: frozenset[str] = frozenset()) -> None:
        self._keyring = keyring
        self._exposed = exposed
        self._allowed_hosts = allowed_hosts
        self._stays: set[Stay] = set()
        keyring.on_reading(self._look_again)

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return not self._exposed and not self._keyring.any_made

    async def admit(self, headers: Headers, operation: str) -> Visitor | None:
        """Who asks for an operation, acting from here on; None where nobody is asked.

        Raises Problem 401 and 403, and DatabaseUnavailable while it cannot be known.
        """
        if role_of(operation) is None:
            return None
        visitor = self._anybody(headers) if self.is_open else await self._owner(headers)
        visitor.require(operation)
        act_as(visitor)
        return visitor

    def enter(self, visitor: Visitor) -> Stay:
        """Watch over somebody who was admitted, until `leave`."""
        stay = Stay(visitor)
        self._stays.add(stay)
        self._look_at(stay)
        return stay

    def leave(self, stay: Stay) -> None:
        """Watch no longer."""
        self._stays.discard(stay)

    def _anybody(self, headers: Headers) -> Visitor:
        if not host_is_ours(headers, self._allowed_hosts):
            raise host_not_ours()
        if not origin_is_ours(headers, self._allowed_hosts):
            raise origin_not_ours()
        return Visitor()

    async def _owner(self, headers: Headers) -> Visitor:
        secrets = presented_secrets(headers)
        if not secrets:
            raise key_missing()
        key = await self._keyring.find(next(iter(secrets))) if len(secrets) == 1 else None
        if key is None:
            raise key_unknown()
        return Visitor(key)

    def _look_again(self) -> None:
        for stay in self._stays:
            self._look_at(stay)

    def _look_at(self, stay: Stay) -> None:
        key = stay.visitor.key
        if stay.ended.is_set() or self._may_stay(key):
            return
        stay.unsure = key is not None and self._keyring.holds(key)
        stay.ended.set()
        log.info("access_ended", key=str(key.id) if key else None, unsure=stay.unsure)

    def _may_stay(self, key: ApiKey | None) -> bool:
        if key is None:
            return self.is_open
        return self._keyring.holds(key) and self._keyring.believed
