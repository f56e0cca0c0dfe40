"""Database URLs are read as libpq reads them."""

from __future__ import annotations

import pytest

from xml_pipeline.errors import InvalidInput
from xml_pipeline.storage.dsn import Dsn, parse_dsn


def _dsn(**parts: object) -> Dsn:
    usual: dict[str, object] = {"host": "127.0.0.1", "port": 5432, "user": None, "password": None, "database": None}
    return Dsn(**{**usual, "ssl": None, **parts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://", _dsn()),
        ("postgres://u@h/d", _dsn(host="h", user="u", database="d")),
        ("postgresql+asyncpg://h:6000/d", _dsn(host="h", port=6000, database="d")),
        ("postgresql://u:p%40ss%3A%2Fword@h/d", _dsn(host="h", user="u", password="p@ss:/word", database="d")),
        ("postgresql://u@/d?host=/Var/Run/pg", _dsn(host="/Var/Run/pg", user="u", database="d")),
        ("postgresql://u:@localhost/d?host=%2Fa%20b%2Bc+d", _dsn(host="/a b+c+d", user="u", database="d")),
        ("postgresql://u@%2FVar%2FRun/d", _dsn(host="/Var/Run", user="u", database="d")),
        ("postgresql://[::1]:5433/d", _dsn(host="::1", port=5433, database="d")),
        ("postgresql:///d?user=u&password=p&port=7", _dsn(port=7, user="u", password="p", database="d")),
        ("postgresql://h/d?sslmode=require&connect_timeout=3", _dsn(host="h", database="d", ssl="require")),
        ("postgresql://h/d?search_path=x", _dsn(host="h", database="d", settings={"search_path": "x"})),
    ],
)
def test_parts(url: str, expected: Dsn) -> None:
    assert parse_dsn(url) == expected


@pytest.mark.parametrize(
    "url", ["", "mysql://h/d", "postgresql://h:port/d", "postgresql://h:0/d", "postgresql://h/d?sslmode=maybe"]
)
def test_what_cannot_be_read_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        parse_dsn(url)


def test_the_place_shows_no_secret() -> None:
    assert parse_dsn("postgresql://user:secret@h/d").place == "h:5432, database d"
    assert parse_dsn("postgresql://user:secret@/d?host=/run/pg").place == "/run/pg, database d"
