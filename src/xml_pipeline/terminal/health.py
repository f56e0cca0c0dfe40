"""Asks a service how it is: for containers, and for people."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urljoin

import httpx

from xml_pipeline.errors import InvalidInput

_SECONDS = 3.0
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104


def ops_url(environment: Mapping[str, str]) -> str:
    """Where the service with this environment answers. Raises InvalidInput where it does not."""
    port = environment.get("ORGANISM_OPS_PORT")
    if not port:
        raise InvalidInput("ORGANISM_OPS_PORT is not set: name the URL of a gateway or of an ops port")
    host = environment.get("ORGANISM_OPS_HOST") or "127.0.0.1"
    host = "127.0.0.1" if host in _EVERYWHERE else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def ask_health(url: str, *, live: bool) -> tuple[bool, str]:
    """Whether a service is ready, or alive, and in one line what it said."""
    path, word = ("/livez", "alive") if live else ("/readyz", "ready")
    try:
        answer = httpx.get(urljoin(url, path), timeout=_SECONDS)
        said = answer.json()
        failed = [f"{check['name']} {check['state']}" for check in said["checks"] if not check["ok"]]
    except httpx.TransportError as error:
        return False, f"no answer from {url}: {str(error) or type(error).__name__}"
    except (ValueError, KeyError, TypeError):
        return False, f"{url} is no service of an organism"
    if answer.is_success:
        return True, word
    return False, f"not {word}: {', '.join(failed) or said['phase']}"
