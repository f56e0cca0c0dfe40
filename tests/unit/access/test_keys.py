"""Keys, roles, and the files that keys are written into."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from xml_pipeline.access.keys import PREFIX, hash_of, new_key
from xml_pipeline.access.roles import Role
from xml_pipeline.errors import InvalidInput
from xml_pipeline.terminal.client import key_headers, key_of
from xml_pipeline.terminal.secret_file import write_secret


def test_a_secret_is_long_random_and_known_by_how_it_begins() -> None:
    secrets = {new_key("x", Role.VIEWER).secret for _ in range(100)}
    assert len(secrets) == 100
    # 43 characters of 64 kinds are 258 bits.
    assert all(secret.startswith(PREFIX) and len(secret) == len(PREFIX) + 43 for secret in secrets)


def test_of_a_secret_the_hash_is_kept() -> None:
    key = new_key("x", Role.ADMIN)
    assert key.hash == hash_of(key.secret.encode()) == hashlib.sha256(key.secret.encode()).digest()
    assert key.secret not in repr(key)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 101, "\x1b[31m"])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        new_key(name, Role.VIEWER)


def test_each_role_includes_those_before_it() -> None:
    included = [(mine.value, needed.value) for mine in Role for needed in Role if mine.includes(needed)]
    assert included == [
        ("viewer", "viewer"),
        ("operator", "viewer"),
        ("operator", "operator"),
        ("admin", "viewer"),
        ("admin", "operator"),
        ("admin", "admin"),
    ]


@pytest.mark.parametrize(("group", "mode"), [(False, 0o600), (True, 0o640)])
def test_a_secret_in_a_file(tmp_path: Path, group: bool, mode: int) -> None:
    file = tmp_path / "key"
    file.write_text("an older one, readable by all")
    file.chmod(0o644)
    write_secret(file, "xp_secret", group_reads=group)
    assert file.read_text() == "xp_secret\n"
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert list(tmp_path.iterdir()) == [file]


def test_a_secret_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot write"):
        write_secret(tmp_path / "no" / "key", "xp_secret")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInput, match="cannot write"):
        write_secret(tmp_path / "folder", "xp_secret")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_command_line_s_key() -> None:
    assert key_of({}) is None
    assert key_of({"ORGANISM_API_KEY": " \n"}) is None
    assert key_headers(key_of({"ORGANISM_API_KEY": "xp_a\n"})) == {"Authorization": "Bearer xp_a"}
    assert key_headers(None) == {}
    for odd in ("xp_ä", "two words", "xp_a\nxp_b"):
        with pytest.raises(InvalidInput, match="ORGANISM_API_KEY"):
            key_of({"ORGANISM_API_KEY": odd})
