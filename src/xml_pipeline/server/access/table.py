"""Who may do what: one table for all operations of REST and all commands of the WebSockets.

What the table does not name cannot be served: making the app fails.
"""

from __future__ import annotations

from collections.abc import Mapping

from xml_pipeline.access.roles import Role

_OPEN = None
_VIEWER, _OPERATOR, _ADMIN = Role.VIEWER, Role.OPERATOR, Role.ADMIN

# By the operation's id in the OpenAPI document; of WebSockets the path, and the path with the command.
ROLES: Mapping[str, Role | None] = {
    # Probes: whoever starts and watches processes has no key. They tell nothing of what goes on inside.
    "health": _OPEN,
    "livez": _OPEN,
    "readyz": _OPEN,
    # Looking
    "organism": _VIEWER,
    "organism_config": _VIEWER,
    "agents": _VIEWER,
    "agent": _VIEWER,
    "agent_config": _VIEWER,
    "agent_schema": _VIEWER,
    "capabilities": _VIEWER,
    "capability": _VIEWER,
    "threads": _VIEWER,
    "thread": _VIEWER,
    "thread_messages": _VIEWER,
    "messages": _VIEWER,
    "usage": _VIEWER,
    "agent_usage": _VIEWER,
    "model_usage": _VIEWER,
    "timeseries": _VIEWER,
    "budgets": _VIEWER,
    "budget": _VIEWER,
    "shared_budgets": _VIEWER,
    "dead_letters": _VIEWER,
    "dead_letter": _VIEWER,
    "/ws": _VIEWER,
    "/ws subscribe": _VIEWER,
    "/ws/messages": _VIEWER,
    "/ws/messages subscribe": _VIEWER,
    # Daily work: what it does can be undone or done again, within the budgets that are there.
    "inject": _OPERATOR,
    "/ws inject": _OPERATOR,
    "pause": _OPERATOR,
    "resume": _OPERATOR,
    "kill": _OPERATOR,
    "redrive": _OPERATOR,
    # The rest: the whole organism, its configuration, money, and what is gone for good.
    "stop": _ADMIN,
    "reload": _ADMIN,
    "top_up": _ADMIN,
    "reset": _ADMIN,
    "delete": _ADMIN,
}


class UnnamedOperation(LookupError):
    """An operation that the table does not name: a mistake of whoever added it."""


def role_of(operation: str) -> Role | None:
    """The least role that may do it; None where nobody is asked for a key. Raises UnnamedOperation."""
    try:
        return ROLES[operation]
    except KeyError:
        raise UnnamedOperation(f"{operation!r} is not in the table of xml_pipeline.server.access.table") from None
