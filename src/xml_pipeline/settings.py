"""The settings of every process, from the environment: `ORGANISM_<NAME>`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_FILE = Path("organism.yaml")
DEFAULT_HOST = "127.0.0.1"


class Settings(BaseSettings):
    """What is not in organism.yaml: where things are, and how many."""

    model_config = SettingsConfigDict(env_prefix="ORGANISM_", env_ignore_empty=True)

    file: Path = Field(default=DEFAULT_FILE, description="the organism.yaml")
    amqp_url: str | None = Field(default=None, description="the broker, amqp://")
    amqp_password_file: Path | None = Field(default=None, description="a file with the password for the broker")
    database_url: str | None = Field(default=None, description="the database, postgresql://")
    database_password_file: Path | None = Field(default=None, description="a file with that for the database")
    host: str = Field(default=DEFAULT_HOST, description="the address that the API listens on")
    port: int | None = Field(default=None, ge=1, le=65535, description="its port; else the one of organism.yaml")
    allowed_hosts: str = Field(default="", description="names that an open API answers to beside loopback, by commas")
    ops_host: str = Field(default=DEFAULT_HOST, description="the address that answers /livez, /readyz and /metrics")
    ops_port: int | None = Field(default=None, ge=0, le=65535, description="its port, 0 for a free one; else none")
    worker_processes: int | None = Field(default=None, ge=1, le=256, description="child processes of an agent-worker")
    pool_size: int = Field(default=8, ge=1, le=200, description="database connections of a process")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    @model_validator(mode="after")
    def _read_passwords(self) -> Self:
        """Passwords in files go into the URLs: neither the environment nor a process list shows them."""
        self.amqp_url = _with_password(self.amqp_url, self.amqp_password_file)
        self.database_url = _with_password(self.database_url, self.database_password_file)
        return self


def _with_password(url: str | None, file: Path | None) -> str | None:
    """The URL with the password of the file. Raises ValueError for a file that cannot be read, or without a user."""
    if url is None or file is None:
        return url
    try:
        password = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the password file {file} cannot be read: {error}") from error
    parts = urlsplit(url)
    if not parts.username or parts.password is not None:
        raise ValueError(f"with a password file {file} the URL has to name a user, and no password")
    user, _, address = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{address}"))
