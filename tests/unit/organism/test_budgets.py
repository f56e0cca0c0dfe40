"""The section `budgets`: what is read, and what is refused where."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.organism.folders import YAML, faults, write
from xml_pipeline.organism.budgets import UNLIMITED, Budgets, TagBudgets, Webhook
from xml_pipeline.organism.load import load_organism

EVERYTHING = """
budgets:
  organism: 50_000
  tags:
    team: {default: 1000, blue: 200, red: unlimited}
    customer: 300
  agents: {asker: 20, other: unlimited}
  at_limit: park
  thresholds: [95, 50, 50]
  webhook: {url: "http://127.0.0.1:9/hook", secret_env: HOOK_SECRET}
"""


def test_everything_is_read(tmp_path: Path) -> None:
    assert load_organism(write(tmp_path, YAML + EVERYTHING)).budgets == Budgets(
        organism=50_000,
        tags={"team": TagBudgets(1000, {"blue": 200, "red": UNLIMITED}), "customer": TagBudgets(300)},
        agents={"asker": 20, "other": UNLIMITED},
        at_limit="park",
        thresholds=(50, 95),
        webhook=Webhook("http://127.0.0.1:9/hook", "HOOK_SECRET"),
    )


def test_without_the_section_nothing_but_threads_has_a_limit(tmp_path: Path) -> None:
    budgets = load_organism(write(tmp_path)).budgets
    assert budgets == Budgets()
    assert budgets.organism == budgets.of_tag("team", "blue") == UNLIMITED
    assert (budgets.at_limit, budgets.thresholds) == ("deny", (75, 90, 95))


def test_the_limit_of_threads_may_be_unlimited(tmp_path: Path) -> None:
    text = YAML.replace("{name: tested}", "{name: tested, max_tokens_per_thread: unlimited}")
    assert load_organism(write(tmp_path, text)).max_tokens_per_thread == UNLIMITED


def test_a_tag_value_that_is_not_named_has_the_default() -> None:
    budgets = Budgets(tags={"team": TagBudgets(1000, {"blue": 200})})
    assert [budgets.of_tag("team", value) for value in ("blue", "red")] == [200, 1000]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("organism: 0", "organism must be at least 1"),
        ("organism: infinite", "organism must be a whole number"),
        ("tags: {team: {blue: -1}}", "the tag 'team' 'blue' must be at least 1"),
        ("tags: [team]", "tags must be a mapping"),
        ("agents: {a: no}", "agents 'a' must be a whole number"),
        ("at_limit: shrug", "at_limit must be one of deny, park, kill"),
        ("thresholds: [0]", "a threshold must be at least 1"),
        ("thresholds: [101]", "a threshold must be at most 100"),
        ("webhook: {url: http://x}", "the webhook has no 'secret_env'"),
        ("webhook: {url: ftp://x, secret_env: S}", "url must begin with http"),
        ("treads: 5", "budgets has no key 'treads'"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, section: str, said: str) -> None:
    path = write(tmp_path, f"{YAML}budgets:\n  {section}\n")
    with faults() as found:
        load_organism(path)
    assert any(line == 8 and said in message for line, message in found), found
