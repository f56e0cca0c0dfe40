"""Judgements on a broker: from facts to findings, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from xml_pipeline.doctor.clocks import judge_clock
from xml_pipeline.doctor.model import Finding, failed, ok, skipped, warning
from xml_pipeline.message_bus.facts import BrokerFacts, ManagementFacts, QueueFacts, UserFacts
from xml_pipeline.message_bus.rights import SERVICES, BrokerRights
from xml_pipeline.message_bus.topology import Names

OLDEST = (3, 10)
_SETUP = "run 'organism broker-setup'"


def judge_broker(facts: BrokerFacts, names: Names) -> Iterator[Finding]:
    """What AMQP shows."""
    yield ok("broker", f"RabbitMQ at {facts.place} answers")
    yield judge_version(facts)
    yield _topology(facts)
    yield _consumers(facts.queues, names)
    yield _blocked(facts)


def judge_version(facts: BrokerFacts) -> Finding:
    """The topology works on RabbitMQ 3.10 and 4."""
    said = f"{facts.product} {facts.version}"
    match = re.match(r"(\d+)\.(\d+)", facts.version)
    if match is None or facts.product != "RabbitMQ":
        return warning("broker-version", f"{said} is none that was tried", "use RabbitMQ 3.10 or newer")
    if (int(match[1]), int(match[2])) < OLDEST:
        return failed("broker-version", f"{said} is too old", "upgrade to RabbitMQ 3.10 or newer")
    return ok("broker-version", said)


def judge_management(facts: ManagementFacts, expected: Mapping[str, tuple[str, BrokerRights]]) -> Iterator[Finding]:
    """What the management plugin shows. `expected`: by the user's name its service and the rights that it needs."""
    yield _alarms(facts)
    if facts.clock is not None:
        skew = (facts.clock - facts.asked_at).total_seconds()
        yield judge_clock("broker-clock", "the broker", skew, error=1.0)
    for name, (service, rights) in expected.items():
        yield _user(name, service, rights, facts.users.get(name))


def not_asked_management() -> Iterator[Finding]:
    """What takes an administrator to see."""
    fix = "name the management plugin with --management"
    yield skipped("broker-alarms", "which resource of which node is short was not asked", fix)
    yield skipped("broker-clock", "AMQP does not tell the broker's time", fix)
    yield skipped("broker-rights", "the rights of users were not asked", fix)


def _topology(facts: BrokerFacts) -> Finding:
    missing = [*facts.missing_exchanges, *(name for name, queue in facts.queues.items() if queue is None)]
    if missing:
        return failed("broker-topology", f"missing: {', '.join(missing)}", f"{_SETUP}, or start a router")
    return ok("broker-topology", f"{len(facts.queues)} queues and their exchanges are there")


def _consumers(queues: Mapping[str, QueueFacts | None], names: Names) -> Finding:
    idle = {name: queue.ready for name, queue in queues.items() if queue is not None and queue.consumers == 0}
    if not idle:
        return ok("consumers", "every queue is read")
    readers = sorted({_reader(name, names) for name in idle}, key=SERVICES.index)
    listed = ", ".join(f"{name} ({ready} waiting)" for name, ready in idle.items())
    return failed("consumers", f"nobody reads {listed}", f"start: {', '.join(readers)}")


def _reader(queue: str, names: Names) -> str:
    if queue == names.usage:
        return "usage"
    return "router" if queue in (names.ingress, names.dead) else "agent-worker"


def _blocked(facts: BrokerFacts) -> Finding:
    if facts.blocked:
        fix = "free memory or disk on the broker, or raise its limits: 'rabbitmq-diagnostics alarms' says which"
        return failed("broker-blocked", "the broker takes no messages: it is short of memory or disk", fix)
    return ok("broker-blocked", "the broker takes messages")


def _alarms(facts: ManagementFacts) -> Finding:
    short = [f"{node.name} is short of {', '.join(node.alarms)}" for node in facts.nodes if node.alarms]
    down = [f"{node.name} does not run" for node in facts.nodes if not node.running]
    if not short and not down:
        return ok("broker-alarms", f"{len(facts.nodes)} nodes run, none with an alarm")
    free = ["free it there, or raise vm_memory_high_watermark or lower disk_free_limit"] if short else []
    start = ["start the nodes that do not run"] if down else []
    return failed("broker-alarms", "; ".join((*short, *down)), "; ".join((*free, *start)))


def _user(name: str, service: str, rights: BrokerRights, found: UserFacts | None) -> Finding:
    check = f"broker-rights-{service}"
    if found is None:
        return warning(check, f"there is no user {name}: the {service} runs as another", f"{_SETUP}, and use that user")
    if found.tags:
        said = f"{name} may use the management plugin, as {', '.join(found.tags)}"
        return failed(check, said, f"{_SETUP}, which takes that away")
    if found.rights is None:
        return failed(check, f"{name} may not enter the virtual host", _SETUP)
    if found.rights != rights:
        return failed(check, f"{name} has other rights than it needs: {_differences(found.rights, rights)}", _SETUP)
    return ok(check, f"{name} has the rights that it needs, and no others")


def _differences(found: BrokerRights, wanted: BrokerRights) -> str:
    pairs = {
        "configure": (found.configure, wanted.configure),
        "write": (found.write, wanted.write),
        "read": (found.read, wanted.read),
        "topic write": (found.topic.write, wanted.topic.write),
        "topic read": (found.topic.read, wanted.topic.read),
    }
    return "; ".join(f"{name} is {one}, not {other}" for name, (one, other) in pairs.items() if one != other)
