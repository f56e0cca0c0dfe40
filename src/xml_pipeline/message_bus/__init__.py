"""The bus between services, and the budgets of threads in one process."""

from xml_pipeline.message_bus.budget_registry import BudgetRegistry, get_budget_registry, reset_budget_registry

__all__ = ["BudgetRegistry", "get_budget_registry", "reset_budget_registry"]
