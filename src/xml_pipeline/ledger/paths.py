"""From a call to the budgets that have to cover it."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from xml_pipeline.storage.budget_rows import Budget, agent_node_id


def path_of(budgets: Mapping[UUID, Budget], thread_id: UUID, agent_id: str) -> list[Budget]:
    """The budgets of a call, from the organism down: tags, thread, and the agent's where it has one."""
    thread = budgets[thread_id]
    path = [*(budgets[id_] for id_ in thread.ancestors), thread]
    agent = budgets.get(agent_node_id(thread_id, agent_id))
    return path if agent is None else [*path, agent]
