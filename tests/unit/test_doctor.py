"""What a doctor makes of facts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from xml_pipeline.doctor.clocks import judge_clock
from xml_pipeline.doctor.model import Finding, State
from xml_pipeline.doctor.of_broker import judge_broker, judge_management, not_asked_management
from xml_pipeline.doctor.of_database import judge_database
from xml_pipeline.doctor.prices import PriceTable, judge_prices, look_at_prices
from xml_pipeline.message_bus.facts import BrokerFacts, ManagementFacts, NodeFacts, QueueFacts
from xml_pipeline.message_bus.facts import UserFacts as BrokerUserFacts
from xml_pipeline.message_bus.rights import SERVICES, rights_of
from xml_pipeline.message_bus.topology import Names
from xml_pipeline.storage.facts import DatabaseFacts, Differing, Right, UserFacts

NOW = datetime(2031, 5, 6, 12, tzinfo=UTC)
NAMES = Names("o")
READ = QueueFacts(0, 1)
QUEUES = {NAMES.ingress: READ, NAMES.usage: READ, NAMES.agent("a"): READ, NAMES.dead: READ}
BROKER = BrokerFacts("host:5672", "RabbitMQ", "3.10.8", QUEUES, (), False)
EXPECTED = {service: (service, rights_of(service, "o")) for service in SERVICES}
USERS = {service: BrokerUserFacts(service, (), rights) for service, (_, rights) in EXPECTED.items()}
NODE = NodeFacts("rabbit@host", True, ())
MANAGEMENT = ManagementFacts((NODE,), USERS, NOW, NOW)
DATABASE = DatabaseFacts(
    "host:5432",
    "17.2",
    "7",
    frozenset({"7"}),
    True,
    0.0,
    0.0,
    letters=(0, None),
    untaken=(0, 0.0),
    unpriced=(),
    users={name: UserFacts(False, (f"organism_{name}",)) for name in ("gateway", "router", "usage")},
)
DATABASE_USERS = {name: name for name in ("gateway", "router", "usage")}


def of_broker(**changes: object) -> list[Finding]:
    return list(judge_broker(replace(BROKER, **changes), NAMES))  # type: ignore[arg-type]


def of_management(**changes: object) -> list[Finding]:
    return list(judge_management(replace(MANAGEMENT, **changes), EXPECTED))  # type: ignore[arg-type]


def of_database(**changes: object) -> list[Finding]:
    return list(judge_database(replace(DATABASE, **changes), DATABASE_USERS))  # type: ignore[arg-type]


def only(findings: list[Finding], state: State = State.FAILED) -> Finding:
    """The one that is not well."""
    (found,) = [finding for finding in findings if finding.state is not State.OK]
    assert found.state is state
    assert found.fix
    return found


def test_all_is_well() -> None:
    for findings in (of_broker(), of_management(), of_database()):
        assert {finding.state for finding in findings} == {State.OK}
        assert len({finding.check for finding in findings}) == len(findings)


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("3.10.0", State.OK),
        ("3.13.7", State.OK),
        ("4.0.5", State.OK),
        ("3.9.29", State.FAILED),
        ("2.8", State.FAILED),
        ("unknown", State.WARNING),
    ],
)
def test_versions_of_the_broker(version: str, state: State) -> None:
    findings = {finding.check: finding.state for finding in of_broker(version=version)}
    assert findings["broker-version"] is state


def test_another_broker_is_told() -> None:
    assert "LavinMQ 2.0.0" in only(of_broker(product="LavinMQ", version="2.0.0"), State.WARNING).said


def test_what_is_not_declared() -> None:
    found = only(of_broker(queues={**QUEUES, NAMES.usage: None}, missing_exchanges=("o.events",)))
    assert found.said == "missing: o.events, o.usage"
    assert "broker-setup" in str(found.fix)


@pytest.mark.parametrize(
    ("queue", "starts"),
    [(NAMES.ingress, "router"), (NAMES.dead, "router"), (NAMES.usage, "usage"), (NAMES.agent("a"), "agent-worker")],
)
def test_a_queue_that_nobody_reads(queue: str, starts: str) -> None:
    found = only(of_broker(queues={**QUEUES, queue: QueueFacts(7, 0)}))
    assert found.said == f"nobody reads {queue} (7 waiting)"
    assert found.fix == f"start: {starts}"


def test_a_broker_that_takes_nothing() -> None:
    assert only(of_broker(blocked=True)).check == "broker-blocked"


def test_alarms_and_nodes() -> None:
    down, short = replace(NODE, running=False), replace(NODE, name="rabbit@other", alarms=("disk",))
    found = only(of_management(nodes=(down, short)))
    assert found.said == "rabbit@other is short of disk; rabbit@host does not run"
    assert "disk_free_limit" in str(found.fix)
    assert "start the nodes" in str(found.fix)
    assert only(of_management(nodes=(down,))).fix == "start the nodes that do not run"


def test_users_of_the_broker() -> None:
    others = {name: user for name, user in USERS.items() if name != "gateway"}
    assert only(of_management(users=others), State.WARNING).check == "broker-rights-gateway"
    for user, said in (
        (BrokerUserFacts("gateway", ("administrator",), EXPECTED["gateway"][1]), "administrator"),
        (BrokerUserFacts("gateway", ("monitoring", "policymaker"), EXPECTED["gateway"][1]), "monitoring, policymaker"),
        (BrokerUserFacts("gateway", (), None), "may not enter"),
        (BrokerUserFacts("gateway", (), replace(EXPECTED["gateway"][1], write=".*")), r"write is .*, not ^("),
    ):
        assert said in only(of_management(users={**others, "gateway": user})).said


@pytest.mark.parametrize(
    ("skew", "error", "state"),
    [(4.9, 0, State.OK), (5.1, 0, State.FAILED), (-5.1, 0, State.FAILED), (5.5, 1.0, State.OK), (600, 1, State.FAILED)],
)
def test_clocks(skew: float, error: float, state: State) -> None:
    assert judge_clock("clock", "the database", skew, error=error).state is state


def test_the_brokers_clock() -> None:
    found = only(of_management(clock=NOW - timedelta(minutes=2)))
    assert found.said == "the clock of the broker is 120.0 s behind this machine's"
    assert of_management(clock=None)


def test_what_was_not_asked_is_told() -> None:
    assert {finding.state for finding in not_asked_management()} == {State.SKIPPED}


@pytest.mark.parametrize(
    ("found", "known", "fix"),
    [
        (frozenset(), True, "run 'organism migrate'"),
        (frozenset({"1"}), True, "run 'organism migrate', then start services of this version"),
        (frozenset({"from-the-future"}), False, "run a newer version of this program"),
    ],
)
def test_another_schema_ends_what_can_be_said(found: frozenset[str], known: bool, fix: str) -> None:
    findings = of_database(found=found, known=known)
    assert only(findings).fix == fix
    assert [finding.check for finding in findings] == ["database", "schema", "database-clock"]


def test_facts_of_the_database() -> None:
    assert "usage_events_2031_06" in only(of_database(missing_months=("usage_events_2031_06",))).said
    assert only(of_database(untaken=(3, 31.0))).check == "injects"
    assert of_database(untaken=(3, 2.0))
    assert "2 dead letters" in only(of_database(letters=(2, NOW)), State.WARNING).said
    assert "m of p (5 calls)" in only(of_database(unpriced=(("m", "p", 5),)), State.WARNING).said
    assert "database-setup" in str(only(of_database(missing_groups=("organism_usage",))).fix)


def test_rights_in_the_database() -> None:
    missing = Differing("organism_router", Right("inbox", "update", "taken_at"), missing=True)
    beyond = Differing("organism_gateway", Right("budgets", "delete"), missing=False)
    found = only(of_database(differing=(missing, beyond)))
    assert found.said == "organism_router lacks update on inbox.taken_at, organism_gateway has delete on budgets"
    assert "and 4 more" in only(of_database(differing=(beyond,) * 9)).said


def test_users_of_the_database() -> None:
    without = {name: user for name, user in DATABASE.users.items() if name != "usage"}
    assert only(of_database(users=without), State.WARNING).check == "database-rights-usage"
    own = Differing("usage", Right("messages", "delete"), missing=False)
    for user in (
        UserFacts(True, ("organism_usage",)),
        UserFacts(False, ()),
        UserFacts(False, ("a", "organism_usage")),
        UserFacts(False, ("organism_usage",), (own,)),
    ):
        assert only(of_database(users={**without, "usage": user})).check == "database-rights-usage"


def test_what_may_not_be_read_is_skipped_with_the_way_to_see_it() -> None:
    for changes in ({"letters": None}, {"untaken": None}, {"unpriced": None}):
        assert only(of_database(**changes), State.SKIPPED).fix == "ask as who owns the tables"


def test_the_age_of_prices() -> None:
    table = PriceTable("1.2", NOW - timedelta(days=60))
    assert judge_prices(table, NOW).state is State.OK
    assert judge_prices(table, NOW + timedelta(days=1)).state is State.WARNING
    assert look_at_prices().installed <= datetime.now(UTC)
