"""The settings of every process, from the environment: `ORGANISM_<NAME>`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_FILE = Path("organism.yaml")
DEFAULT_HOST = "127.0.0.1"


class Settings(BaseSettings):
    """What is not in organism.yaml: where things are, and how many."""

    model_config = SettingsConfigDict(env_prefix="ORGANISM_", env_ignore_empty=True)

    file: Path = Field(default=DEFAULT_FILE, description="the organism.yaml")
    amqp_url: str | None = Field(default=None, description="the broker, amqp://")
    database_url: str | None = Field(default=None, description="the database, postgresql://")
    host: str = Field(default=DEFAULT_HOST, description="the address that the API listens on")
    port: int | None = Field(default=None, ge=1, le=65535, description="its port; else the one of organism.yaml")
    allowed_hosts: str = Field(default="", description="names that an open API answers to beside loopback, by commas")
    ops_host: str = Field(default=DEFAULT_HOST, description="the address that answers /livez and /readyz")
    ops_port: int | None = Field(default=None, ge=0, le=65535, description="its port, 0 for a free one; else none")
    worker_processes: int | None = Field(default=None, ge=1, le=256, description="child processes of an agent-worker")
    pool_size: int = Field(default=8, ge=1, le=200, description="database connections of a process")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
