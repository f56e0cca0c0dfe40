"""Every metric there is: its name, what it means, its labels, and who tells it. docs/metrics.md is made of this."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

ROUTER, WORKER, USAGE, GATEWAY = "router", "agent-worker", "usage", "gateway"
ALL: Final = (GATEWAY, ROUTER, WORKER, USAGE)

# Seconds. Of what takes milliseconds when all is well; of what may wait, or asks an LLM.
_QUICK: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_LONG: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
_SIZES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 4000.0)


class Kind(StrEnum):
    """As Prometheus names them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `labels` have few values: names of listeners and models, codes, states; never ids.

    `shared`: it is read from what all instances share. Each tells the same, so take the maximum and never the sum.
    """

    name: str
    kind: Kind
    help: str
    services: tuple[str, ...]
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    shared: bool = False


def _counter(name: str, text: str, *labels: str, by: tuple[str, ...]) -> Metric:
    return Metric(name, Kind.COUNTER, text, by, labels)


def _gauge(name: str, text: str, *labels: str, by: tuple[str, ...], shared: bool = False) -> Metric:
    return Metric(name, Kind.GAUGE, text, by, labels, shared=shared)


def _histogram(name: str, text: str, *labels: str, by: tuple[str, ...], buckets: tuple[float, ...] = _QUICK) -> Metric:
    return Metric(name, Kind.HISTOGRAM, text, by, labels, buckets)


# Of every process
BUILD = _gauge("organism_build_info", "1, with the version that runs.", "service", "version", by=ALL)
READY = _gauge("organism_ready", "1 while the service takes work, as /readyz says; else 0.", "service", by=ALL)
ALIVE = _gauge("organism_alive", "1 while all its loops make progress, as /livez says; else 0.", "service", by=ALL)
CHECK = _gauge(
    "organism_check_up",
    "1 while what the service needs is there, by check of /readyz: broker, database, its subscriptions; else 0.",
    *("service", "check"),
    by=ALL,
)
SNAPSHOT_AGE = _gauge(
    "organism_snapshot_age_seconds",
    "Seconds since what is shared was read for the last time; it grows while that cannot be read.",
    "snapshot",
    by=(ROUTER, USAGE),
)

# Of routers
TURNS = _counter(
    "organism_turns_total",
    "Turns that were booked, by outcome: ok, error, timeout, parked; ignored are those that came too late to count.",
    *("listener", "outcome"),
    by=(ROUTER,),
)
RETRIES = _counter(
    "organism_retries_total",
    "Messages that are tried again, by what became of the attempt before: error, timeout, lost.",
    *("listener", "after"),
    by=(ROUTER,),
)
DEAD_LETTERS = _counter(
    "organism_dead_letters_total", "Dead letters, by code.", *("listener", "code"), by=(ROUTER, USAGE)
)
QUEUE_WAIT = _histogram(
    "organism_queue_wait_seconds",
    "From a message's insertion until it is sent to workers for the first time, by the database's clock.",
    "listener",
    by=(ROUTER,),
    buckets=_LONG,
)
ROUTER_BATCH = _histogram(
    "organism_router_batch_seconds", "A batch through its transaction, each try and each wait included.", by=(ROUTER,)
)
ROUTER_BATCH_ITEMS = _histogram(
    "organism_router_batch_items", "Injects, turns and others in a batch.", by=(ROUTER,), buckets=_SIZES
)
ROUTER_AGAIN = _counter(
    "organism_router_batches_again_total",
    "Batches begun anew: conflict, another router was quicker; held, the database did not answer; split, an item"
    " could not pass.",
    "reason",
    by=(ROUTER,),
)
BACKLOG = _gauge(
    "organism_backlog_messages",
    "Messages that are accepted and not closed, in PostgreSQL: accepted (no router has taken them), waiting (behind"
    " others of their mailbox), ready, retrying (not before their time), parked (until budgets have room), out (with"
    " workers).",
    *("listener", "state"),
    by=(ROUTER,),
    shared=True,
)
OLDEST = _gauge(
    "organism_backlog_oldest_seconds",
    "The age of the oldest of these.",
    *("listener", "state"),
    by=(ROUTER,),
    shared=True,
)
PAUSED = _gauge(
    "organism_listener_paused", "1 while the listener is paused; else 0.", "listener", by=(ROUTER,), shared=True
)
LISTENER_CAPACITY = _gauge(
    "organism_listener_capacity",
    "How many of its messages the live workers can have in hand, all together.",
    "listener",
    by=(ROUTER,),
    shared=True,
)
QUEUE = _gauge(
    "organism_queue_messages",
    "Messages ready in a queue of the broker: ingress, dead, usage, agent.<listener>.",
    "queue",
    by=(ROUTER, USAGE),
    shared=True,
)

# Of agent-workers
WORKER_WAIT = _histogram(
    "organism_worker_wait_seconds", "From a delivery until its handler begins.", "listener", by=(WORKER,)
)
HANDLER = _histogram(
    "organism_handler_seconds",
    "Runs of handlers, as the worker sees them from outside, by outcome: ok, error, timeout, parked.",
    *("listener", "outcome"),
    by=(WORKER,),
    buckets=_LONG,
)
JOBS = _gauge("organism_worker_jobs", "Messages that the worker has in hand.", "listener", by=(WORKER,))
CAPACITY = _gauge("organism_worker_capacity", "How many it may have in hand.", "listener", by=(WORKER,))
CHILDREN = _gauge("organism_worker_children", "Child processes that take runs.", by=(WORKER,))
CHILD_DEATHS = _counter("organism_worker_child_deaths_total", "Child processes that died unasked.", by=(WORKER,))
HOLD_WAIT = _histogram(
    "organism_hold_seconds",
    "From a handler's wish to ask an LLM until the ledger grants or denies it.",
    "state",
    by=(WORKER,),
    buckets=_LONG,
)
HOLDS_WANTED = _gauge("organism_holds_wanted", "LLM calls that wait for their hold.", by=(WORKER,))
LLM_CALL = _histogram(
    "organism_llm_call_seconds", "Answered LLM calls, as handlers report them.", "model", by=(WORKER,), buckets=_LONG
)

# Of usage services
HOLD_REPLIES = _counter(
    "organism_hold_replies_total",
    "Answers to hold requests: granted, denied, wait (until other calls are over; such a request is repeated).",
    "state",
    by=(USAGE,),
)
HOLDS_ENDED = _counter(
    "organism_holds_ended_total", "Holds that ended: settled, released, expired.", "how", by=(USAGE,)
)
BOOKINGS = _counter(
    "organism_bookings_total",
    "Calls that were booked: measured, estimated, expired; corrected are expired ones whose usage came after all.",
    "kind",
    by=(USAGE,),
)
TOKENS = _counter(
    "organism_tokens_total",
    "Tokens that were booked, by kind: prompt, completion. What is corrected downwards later is not taken back here.",
    *("agent", "model", "kind"),
    by=(USAGE,),
)
COST = _counter(
    "organism_cost_usd_total",
    "USD that were booked. What is corrected downwards later is not taken back here.",
    *("agent", "model"),
    by=(USAGE,),
)
BOOKING = _histogram(
    "organism_booking_seconds",
    "A batch of hold requests and usage events through its transaction, each try and each wait included.",
    by=(USAGE,),
)
BOOKING_MESSAGES = _histogram(
    "organism_booking_messages", "Hold requests and usage events in a batch.", by=(USAGE,), buckets=_SIZES
)
HOLDS_OPEN = _gauge("organism_holds_open", "Holds of calls that are under way.", by=(USAGE,), shared=True)
HOLDS_OVERDUE = _gauge(
    "organism_holds_overdue",
    "Holds whose time is over and that are not booked as expired yet.",
    by=(USAGE,),
    shared=True,
)
BUDGET_SPENT = _gauge(
    "organism_budget_spent_tokens", "Tokens that the organism has spent, exactly as booked.", by=(USAGE,), shared=True
)
BUDGET_HELD = _gauge("organism_budget_held_tokens", "Tokens that its calls under way hold.", by=(USAGE,), shared=True)
BUDGET_LIMIT = _gauge(
    "organism_budget_limit_tokens",
    "Tokens that it may spend; not told where there is no limit.",
    by=(USAGE,),
    shared=True,
)
BUDGET_COST = _gauge("organism_budget_cost_usd", "USD that it has spent, exactly as booked.", by=(USAGE,), shared=True)
WEBHOOKS_DUE = _gauge(
    "organism_webhook_deliveries_due", "Webhook deliveries that are to be made.", by=(USAGE,), shared=True
)

# Of gateways
INJECTS = _counter(
    "organism_injects_total",
    "Injects that were answered: accepted, repeated, unavailable (503), or the code of the refusal.",
    *("listener", "outcome"),
    by=(GATEWAY,),
)
INJECT = _histogram(
    "organism_inject_seconds", "From the arrival of an inject until it is committed, or turned down.", by=(GATEWAY,)
)
ANSWER = _histogram(
    "organism_answer_seconds",
    "From the acceptance of an inject until its answer is on the live feed, at the gateway that accepted it.",
    *("listener", "kind"),
    by=(GATEWAY,),
    buckets=_LONG,
)

CATALOGUE: Final = tuple(value for value in tuple(globals().values()) if isinstance(value, Metric))
