"""Whose password the management plugin gets."""

from __future__ import annotations

import pytest

from xml_pipeline.message_bus.management import with_login_of

AMQP = "amqp://admin:p%40ss@broker:5672/shop"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://admin@broker:15672", "http://admin:p%40ss@broker:15672"),
        ("https://admin@broker/rabbit", "https://admin:p%40ss@broker/rabbit"),
        ("http://admin:own@broker:15672", "http://admin:own@broker:15672"),
        ("http://other@broker:15672", "http://other@broker:15672"),
        ("http://broker:15672", "http://broker:15672"),
        ("nonsense", "nonsense"),
        ("http://[bad", "http://[bad"),
    ],
)
def test_the_same_user_needs_his_password_once(address: str, expected: str) -> None:
    assert with_login_of(address, AMQP) == expected


def test_where_there_is_no_password_there_is_none() -> None:
    assert with_login_of("http://admin@broker:15672", "amqp://admin@broker/") == "http://admin@broker:15672"
