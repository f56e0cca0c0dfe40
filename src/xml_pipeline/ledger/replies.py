"""What is answered to a hold request that is not granted."""

from __future__ import annotations

from xml_pipeline.message_bus.messages import HoldReply, HoldRequest
from xml_pipeline.organism.budgets import AtLimit
from xml_pipeline.storage.budget_rows import Budget, Level
from xml_pipeline.storage.ledger_rows import Hold, HoldState


def denied(request: HoldRequest, budget: Budget, at_limit: AtLimit) -> HoldReply:
    """A budget on the path will not have room, whatever becomes of the other holds."""
    asked = request.prompt_bound + request.max_completion
    left = f"{budget.left} of {budget.max_tokens} are left"
    return HoldReply(
        call_id=request.call_id,
        state="denied",
        remaining=budget.left,
        reason=f"the call may take {asked} tokens, {left} of the budget of {_whose(budget)}",
        at_limit=at_limit,
        asked=asked,
    )


def too_large(request: HoldRequest, largest: int) -> HoldReply:
    """No budget is so large: to wait for one is in vain."""
    asked = request.prompt_bound + request.max_completion
    reason = f"the call may take {asked} tokens, and none may take more than {largest}"
    return HoldReply(call_id=request.call_id, state="denied", reason=reason, asked=asked)


def not_handled(request: HoldRequest) -> HoldReply:
    """The message is closed, or not known, or the call is over."""
    return HoldReply(call_id=request.call_id, state="denied", reason="the message is not being handled")


def over(hold: Hold, state: HoldState) -> HoldReply:
    """The call had a hold."""
    return HoldReply(call_id=hold.call_id, state="denied", reason=f"the hold was {state} before")


def _whose(budget: Budget) -> str:
    """For handlers, who do not know the ids of threads."""
    match budget.level:
        case Level.ORGANISM:
            return "the organism"
        case Level.TAG:
            return f"{budget.tag_key}={budget.tag_value}"
        case Level.THREAD:
            return "the thread"
        case Level.AGENT:
            return f"{budget.agent_id} in the thread"
