"""Judgements on a database: from facts to findings, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from xml_pipeline.doctor.clocks import judge_clock
from xml_pipeline.doctor.model import Finding, failed, ok, skipped, warning
from xml_pipeline.storage.facts import DatabaseFacts, Differing, UserFacts, user_is_fit

# A sweep of a router takes what nobody was told of within a second or two.
MOST_UNTAKEN_SECONDS = 30.0
_SHOWN = 5
_MIGRATE = "run 'organism migrate' as who owns the tables"
_SETUP = "run 'organism database-setup'"
_NARROW = f"revoke what is too much, give tables back to their owner, then {_SETUP}"
_NOT_SEEN = "the user of ORGANISM_DATABASE_URL may not read it"
_AS_OWNER = "ask as who owns the tables"


def judge_database(facts: DatabaseFacts, users: Mapping[str, str]) -> Iterator[Finding]:
    """`users`: by the service the name of its user."""
    yield ok("database", f"PostgreSQL {facts.version} at {facts.place} answers")
    yield _schema(facts)
    yield judge_clock("database-clock", "the database", facts.skew, error=facts.skew_error)
    if not facts.current:
        return
    yield _months(facts.missing_months)
    yield _injects(facts.untaken)
    yield _letters(facts)
    yield _unpriced(facts.unpriced)
    yield _rights(facts.missing_groups, facts.differing)
    for service, name in users.items():
        yield _user(service, name, facts.users.get(name))


def _schema(facts: DatabaseFacts) -> Finding:
    if facts.current:
        return ok("schema", f"the schema is this version's: {facts.needed}")
    if not facts.found:
        return failed("schema", "the database has no tables yet", "run 'organism migrate'")
    said = f"the schema is {', '.join(sorted(facts.found))}; this version needs {facts.needed}"
    if facts.known:
        return failed("schema", said, "run 'organism migrate', then start services of this version")
    return failed("schema", said, "run a newer version of this program")


def _months(missing: Sequence[str]) -> Finding:
    if missing:
        said = f"not made ahead: {', '.join(missing)}; their usage goes to usage_events_other"
        return failed(
            "months", said, "start a usage service, which makes them; its log says months_put_off where it cannot"
        )
    return ok("months", "this month's table of usage and the next two's are there")


def _injects(untaken: tuple[int, float] | None) -> Finding:
    if untaken is None:
        return skipped("injects", _NOT_SEEN, _AS_OWNER)
    count, seconds = untaken
    if seconds > MOST_UNTAKEN_SECONDS:
        said = f"{count} accepted injects wait for a router, the oldest for {seconds:.0f} s"
        return failed("injects", said, "start a router, or look into its log and at /readyz")
    return ok("injects", f"{count} accepted injects wait for a router")


def _letters(facts: DatabaseFacts) -> Finding:
    if facts.letters is None:
        return skipped("dead-letters", _NOT_SEEN, _AS_OWNER)
    count, oldest = facts.letters
    if count and oldest is not None:
        said = f"{count} dead letters wait for somebody, the oldest since {oldest:%Y-%m-%d %H:%M} UTC"
        return warning("dead-letters", said, "'organism dead-letters' lists them: redrive or delete each")
    return ok("dead-letters", "no dead letters wait")


def _unpriced(unpriced: Sequence[tuple[str, str, int]] | None) -> Finding:
    if unpriced is None:
        return skipped("unpriced-models", _NOT_SEEN, _AS_OWNER)
    if unpriced:
        listed = ", ".join(f"{model} of {provider} ({calls} calls)" for model, provider, calls in unpriced[:_SHOWN])
        fix = "give them under `prices` in organism.yaml, reload, and charge them with 'organism reprice'"
        return warning("unpriced-models", f"without a price in the last seven days: {listed}", fix)
    return ok("unpriced-models", "every model that was used in the last seven days has a price")


def _rights(missing_groups: Sequence[str], differing: Sequence[Differing]) -> Finding:
    if missing_groups:
        said = f"there is no role {', '.join(missing_groups)}: who migrated may not make roles"
        return failed("database-rights", said, f"{_SETUP} as a superuser")
    if differing:
        return failed("database-rights", _listed(differing), f"{_MIGRATE}: it sets all rights anew")
    return ok("database-rights", "each service's role has the rights on tables that it needs, and no others")


def _user(service: str, name: str, found: UserFacts | None) -> Finding:
    check = f"database-rights-{service}"
    if found is None:
        fix = f"{_SETUP}, and use that user"
        return warning(check, f"there is no user {name}: the {service} runs as another", fix)
    if not user_is_fit(found, service):
        said = f"{name} may do more or less than a {service} needs: it is in {', '.join(found.groups) or 'no role'}"
        return failed(check, f"{said}{', and may manage the server' if found.powerful else ''}", _NARROW)
    if found.differing:
        return failed(check, _listed(found.differing), _NARROW)
    return ok(check, f"{name} has the rights on tables that it needs, and no others")


def _listed(differing: Sequence[Differing]) -> str:
    listed = [f"{one.role} {'lacks' if one.missing else 'has'} {one.right}" for one in differing]
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return f"{', '.join(listed[:_SHOWN])}{more}"
