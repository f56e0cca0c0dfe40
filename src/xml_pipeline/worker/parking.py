"""Which denials park the message: it waits until its budgets have room for the call that was denied."""

from __future__ import annotations

from xml_pipeline.message_bus.messages import HoldReply


def parks(reply: HoldReply) -> bool:
    """Whether the handler does not hear of this denial."""
    return reply.state == "denied" and reply.at_limit == "park" and reply.asked > 0
