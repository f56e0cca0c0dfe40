"""Signatures as Standard Webhooks has them, and the times of further attempts."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xml_pipeline.ledger.signing import (
    GIVE_UP_AFTER,
    WebhookSecretUnusable,
    letter,
    next_wait,
    read_secret,
    signature,
)

# The example of the specification.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SIGNED = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_example_of_the_specification() -> None:
    key = read_secret("HOOK", {"HOOK": SECRET})
    body = b'{"test": 2432232314}'
    assert signature("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body, key) == SIGNED


def test_a_letter_carries_what_its_signature_is_of() -> None:
    id_, at = UUID(int=7), datetime(2026, 5, 1, 12, 0, 0, 900_000, tzinfo=UTC)
    news = letter(id_, {"event": "budget", "name": "größer", "threshold": 75}, at=at, key=b"key")
    assert json.loads(news.body) == {"event": "budget", "name": "größer", "threshold": 75}
    assert news.headers["webhook-id"] == str(id_)
    assert news.headers["webhook-timestamp"] == str(int(at.timestamp()))
    signed = signature(news.headers["webhook-id"], news.headers["webhook-timestamp"], news.body, b"key")
    assert news.headers["webhook-signature"] == signed


def test_the_same_news_have_the_same_body() -> None:
    at = datetime(2026, 5, 1, tzinfo=UTC)
    first = letter(UUID(int=1), {"a": 1, "b": 75.0}, at=at, key=b"key")
    again = letter(UUID(int=1), {"b": 75.0, "a": 1}, at=at, key=b"key")
    assert first == again


def test_a_secret_without_the_prefix_is_taken_as_it_is() -> None:
    assert read_secret("HOOK", {"HOOK": " plain secret\n"}) == b"plain secret"
    assert read_secret("HOOK", {"HOOK": "whsec_" + base64.b64encode(b"raw").decode()}) == b"raw"


@pytest.mark.parametrize("environment", [{}, {"HOOK": ""}, {"HOOK": "whsec_"}, {"HOOK": "whsec_no base64!"}])
def test_without_a_usable_secret_the_variable_is_named_and_not_its_value(environment: dict[str, str]) -> None:
    with pytest.raises(WebhookSecretUnusable, match="HOOK") as caught:
        read_secret("HOOK", environment)
    assert "no base64!" not in str(caught.value)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_waits_grow_to_an_hour(attempt: int, chance: float) -> None:
    wait = next_wait(attempt, 0, chance)
    assert wait is not None
    ideal = min(5 * 2 ** (attempt - 1), 3600)
    assert 0.8 * ideal <= wait <= 1.2 * ideal


def test_it_is_given_up_when_the_next_attempt_were_after_a_day() -> None:
    assert next_wait(1, GIVE_UP_AFTER - 5, 0.5) == 5
    assert next_wait(1, GIVE_UP_AFTER - 5, 0.6) is None


def test_a_receiver_that_is_never_there_is_asked_some_thirty_times_over_a_day() -> None:
    age, attempts = 0.0, 1
    while (wait := next_wait(attempts, age, 0.5)) is not None:
        age, attempts = age + wait, attempts + 1
    assert 23 * 3600 <= age <= GIVE_UP_AFTER
    assert 25 <= attempts <= 40
