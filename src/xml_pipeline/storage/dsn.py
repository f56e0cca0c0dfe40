"""Reading `postgresql://` URLs as libpq does: a query parameter wins over the same part before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from xml_pipeline.errors import InvalidInput

DEFAULT_PORT = 5432
_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
# Known to libpq and without a meaning here: accepted, so that one URL serves every program.
_IGNORED = frozenset(
    {
        "channel_binding",
        "connect_timeout",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "requirepeer",
        "sslcompression",
        "sslnegotiation",
        "target_session_attrs",
    }
)


@dataclass(frozen=True, slots=True)
class Dsn:
    """Where a database is and who asks. `host` may be a folder with a socket; `ssl` is libpq's sslmode."""

    host: str
    port: int
    user: str | None
    password: str | None
    database: str | None
    ssl: str | None
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Host, port and database, without user and password."""
        where = self.host if self.host.startswith("/") else f"{self.host}:{self.port}"
        return f"{where}, database {self.database}" if self.database else where


def parse_dsn(url: str) -> Dsn:
    """Take a URL apart. Raises InvalidInput, which never shows the password."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidInput("the database's URL cannot be read") from error
    if parts.scheme not in _SCHEMES:
        raise InvalidInput("the database's URL has to begin with postgresql://")
    query = _query(parts.query)
    netloc_host, netloc_port = _address(parts)
    return Dsn(
        host=query.pop("host", "") or netloc_host or "127.0.0.1",
        port=_port(query.pop("port", "") or netloc_port),
        user=query.pop("user", "") or _decoded(parts.username),
        password=query.pop("password", "") or _decoded(parts.password),
        database=query.pop("dbname", "") or unquote(parts.path.lstrip("/")) or None,
        ssl=_ssl_mode(query.pop("sslmode", "")),
        settings={name: value for name, value in query.items() if name not in _IGNORED},
    )


def _address(parts: SplitResult) -> tuple[str, str]:
    """Host and port before the query. Taken by hand: urlsplit lowers the case, which a socket's folder keeps."""
    address = parts.netloc.rpartition("@")[2]
    if address.startswith("["):
        host, _, rest = address[1:].partition("]")
        return host, rest.lstrip(":")
    host, _, port = address.partition(":")
    return unquote(host), port


def _query(query: str) -> dict[str, str]:
    # Not parse_qsl: a plus sign is a plus sign here.
    pairs = (pair.partition("=") for pair in query.split("&") if pair)
    return {unquote(name): unquote(value) for name, _, value in pairs}


def _decoded(value: str | None) -> str | None:
    return unquote(value) if value else None


def _port(value: str) -> int:
    if not value:
        return DEFAULT_PORT
    if not value.isascii() or not value.isdigit() or not 0 < int(value) < 65536:
        raise InvalidInput("the port in the database's URL has to be a number from 1 to 65535")
    return int(value)


def _ssl_mode(value: str) -> str | None:
    if value and value not in _SSL_MODES:
        raise InvalidInput(f"sslmode in the database's URL is one of {', '.join(_SSL_MODES)}")
    return value or None
