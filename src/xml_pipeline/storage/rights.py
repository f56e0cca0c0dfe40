"""What each service may do with the tables: a group role for each, with no more rights than it needs.

The agent-worker has none: it knows no database. Whoever owns the tables may do everything; that is who migrates,
archives, charges anew and closes the books.
"""

from __future__ import annotations

from collections.abc import Mapping

Rights = Mapping[str, str]

_GATEWAY: Rights = {
    "alembic_version": "select",
    # It looks keys up and notes their use; it makes none.
    "api_keys": "select, update (last_used_at)",
    "audit_log": "select, insert",
    # Top-ups add to a limit, and may be what makes a budget; nothing else of one is a gateway's to change.
    "budgets": "select, insert, update (topped_up, fired)",
    "configurations": "select, insert",
    "dead_letters": "select, update (redriven_at, redrive_id, redrive_hash), delete",
    "inbox": "select, insert",
    "listeners": "select, insert, update (is_agent, window_size, retired, paused)",
    "messages": "select, update (state, outcome, closed_at, parked_for)",
    "organism_state": "select, insert, update",
    "tag_rollups": "select",
    "threads": "select, insert, update, delete",
    "top_ups": "select, insert",
    "usage_periods": "insert",
    "usage_rollups": "select",
}
_ROUTER: Rights = {
    "alembic_version": "select",
    "audit_log": "select (id), insert",
    "budgets": "select",
    "calls": "select, insert, update",
    "configurations": "select, insert",
    "dead_letters": "select, insert",
    "inbox": "select, update (taken_at)",
    "listeners": "select, insert, update (is_agent, window_size, retired, capacity)",
    "messages": "select, insert, update",
    "organism_state": "select",
    "threads": "select, update",
    "turns": "select, insert",
}
_USAGE: Rights = {
    "alembic_version": "select",
    # What a spent budget does to a thread: `at_limit: kill`.
    "audit_log": "select (id), insert",
    "budgets": "select, insert, update",
    "carried_forward": "select",
    # Whoever starts first puts its organism.yaml in force.
    "configurations": "select, insert",
    "dead_letters": "insert",
    "holds": "select, insert, update, delete",
    "inbox": "select",
    "latency_rollups": "select, insert, update",
    "listeners": "select, insert, update (is_agent, window_size, retired)",
    "messages": "select, update (state, outcome, closed_at, parked_for)",
    "organism_state": "select",
    "prices": "select, insert",
    "tag_rollups": "select, insert, update",
    "threads": "select, update (status, open, last_activity)",
    "usage_events": "select, insert, delete",
    "usage_periods": "select",
    "usage_rollups": "select, insert, update",
    "webhook_deliveries": "select, insert, update",
}
RIGHTS: Mapping[str, Rights] = {
    "organism_gateway": _GATEWAY,
    "organism_router": _ROUTER,
    "organism_usage": _USAGE,
}
# The only way in which a service changes tables themselves; it runs with the rights of who owns them.
MAKE_MONTH = "make_usage_month(timestamptz, bigint)"
FUNCTIONS: Mapping[str, tuple[str, ...]] = {"organism_usage": (MAKE_MONTH,)}
# Whoever reads the reports: their views alone.
REPORTS = "organism_reports"
REPORTS_SCHEMA = "reports"


def group_of(service: str) -> str:
    """The group role of a service."""
    return f"organism_{service}"
