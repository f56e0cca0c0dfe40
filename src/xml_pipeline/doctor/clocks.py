"""Judgements on clocks."""

from __future__ import annotations

from xml_pipeline.doctor.model import Finding, failed, ok

# Deadlines and holds are by the database's clock; webhooks and traces by those of machines. Receivers of webhooks
# refuse what is minutes off, and people compare logs by the second.
MOST_SKEW = 5.0


def judge_clock(check: str, whose: str, skew: float, *, error: float) -> Finding:
    """`skew`: seconds ahead of this machine's clock, give or take `error`."""
    said = f"the clock of {whose} is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    if abs(skew) - error > MOST_SKEW:
        return failed(check, said, "have both machines keep time by NTP")
    return ok(check, f"{said} (± {error:.1f} s)")
