"""What the environment says: passwords that files hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from xml_pipeline.errors import InvalidInput
from xml_pipeline.runtime import read_settings


def test_passwords_in_files_go_into_the_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "password"
    secret.write_text("p/w@:d %\n")
    monkeypatch.setenv("ORGANISM_DATABASE_URL", "postgresql://router@db/organism?sslmode=disable")
    monkeypatch.setenv("ORGANISM_DATABASE_PASSWORD_FILE", str(secret))
    monkeypatch.setenv("ORGANISM_AMQP_URL", "amqp://worker@broker:5673/v")
    monkeypatch.setenv("ORGANISM_AMQP_PASSWORD_FILE", str(secret))
    settings = read_settings()
    assert settings.database_url == "postgresql://router:p%2Fw%40%3Ad%20%25@db/organism?sslmode=disable"
    assert settings.amqp_url == "amqp://worker:p%2Fw%40%3Ad%20%25@broker:5673/v"


@pytest.mark.parametrize("url", ["amqp://broker/", "amqp://worker:other@broker/"])
def test_a_password_file_belongs_to_a_user_without_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    secret = tmp_path / "password"
    secret.write_text("hidden")
    monkeypatch.setenv("ORGANISM_AMQP_URL", url)
    monkeypatch.setenv("ORGANISM_AMQP_PASSWORD_FILE", str(secret))
    with pytest.raises(InvalidInput, match="has to name a user, and no password") as caught:
        read_settings()
    assert "hidden" not in str(caught.value)
    assert "other" not in str(caught.value)


def test_a_password_file_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORGANISM_DATABASE_URL", "postgresql://router@db/organism")
    monkeypatch.setenv("ORGANISM_DATABASE_PASSWORD_FILE", str(tmp_path / "missing"))
    with pytest.raises(InvalidInput, match="missing cannot be read"):
        read_settings()
