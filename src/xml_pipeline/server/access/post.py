"""A guard for a gateway that starts, or the reason why it must not."""

from __future__ import annotations

import structlog

from xml_pipeline.access.decisions import is_loopback
from xml_pipeline.errors import XmlPipelineError
from xml_pipeline.server.access.guard import Guard
from xml_pipeline.server.access.keyring import Keyring

log = structlog.get_logger(__name__)


class KeyRequired(XmlPipelineError):
    """A gateway that others than its own machine would reach, and no key to tell them apart by."""

    code = "api-key-required"


async def post_guard(keyring: Keyring, address: str, allowed_hosts: frozenset[str]) -> Guard:
    """The guard for a gateway that is about to listen on an IP address; says so where it is open.

    Raises KeyRequired and DatabaseUnavailable.
    """
    await keyring.read()
    exposed = not is_loopback(address)
    if exposed and not keyring.any_in_force:
        raise KeyRequired(
            f"[{KeyRequired.code}] there is no API key, and others than this machine would reach {address}: "
            "make one with 'organism key create --name first --role admin', or set ORGANISM_HOST=127.0.0.1"
        )
    guard = Guard(keyring, exposed=exposed, allowed_hosts=allowed_hosts)
    if guard.is_open:
        log.warning("gateway.open", address=address, why="no API key was made: everybody on this machine may do all")
    elif not keyring.any_in_force:
        log.warning("gateway.locked", address=address, why="all API keys are revoked: make one to get in")
    return guard
