"""Passwords for users that a command makes: from a folder with a file for each, or from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from xml_pipeline.errors import InvalidInput

_SHORTEST = 12


def read_passwords(services: Sequence[str], kind: str, folder: Path | None) -> dict[str, str]:
    """By service: what the file `folder/<service>` says, else `ORGANISM_<SERVICE>_<KIND>_PASSWORD`.

    Raises InvalidInput, naming each that is missing or cannot be used, and never what it is.
    """
    found = {service: _find(service, kind, folder) for service in services}
    faults = [
        f"{where(service, kind, folder)}: {fault}"
        for service, password in found.items()
        if (fault := _fault(password)) is not None
    ]
    if faults:
        raise InvalidInput("; ".join(faults))
    return {service: password for service, password in found.items() if password is not None}


def where(service: str, kind: str, folder: Path | None) -> str:
    """Where a service's password is looked for."""
    return str(folder / service) if folder else variable(service, kind)


def variable(service: str, kind: str) -> str:
    """The name of the environment's variable."""
    return f"ORGANISM_{service.replace('-', '_')}_{kind}_PASSWORD".upper()


def _find(service: str, kind: str, folder: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    if folder is None:
        return environment.get(variable(service, kind)) or None
    try:
        return (folder / service).read_text(encoding="utf-8").rstrip("\r\n") or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{folder / service} cannot be read: {error}") from error


def _fault(password: str | None) -> str | None:
    if password is None:
        return "there is no password; give one there, or name the services that you mean with --service"
    if not (password.isascii() and password.isprintable()):
        return "a password is made of printable ASCII characters"
    if len(password) < _SHORTEST:
        return f"a password has {_SHORTEST} characters at least"
    return None
