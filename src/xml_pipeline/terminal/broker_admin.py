"""Making users of the broker by rabbitmqctl, where its management plugin is not to be had."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

from xml_pipeline.errors import BrokerUnavailable, InvalidInput, Refused

_SECONDS = 60.0
# RabbitMQ 4.0 reads standard input only as a file, 3.10 only without one.
_WAYS: tuple[tuple[str, ...], ...] = (("/dev/stdin",), ())
_NO_FILE = "zero-sized"


def by_rabbitmqctl(command: str, definitions: str) -> None:
    """Import definitions. Raises InvalidInput for a command that is none, BrokerUnavailable, and Refused."""
    words = _words(command)
    for way in _WAYS:
        done = _run([*words, "import_definitions", *way], definitions)
        said = (done.stderr or done.stdout).strip()
        if done.returncode == 0:
            return
        if _NO_FILE not in said:
            raise Refused(f"{words[0]} import_definitions: {said[:500]}")
    raise Refused(f"{words[0]} import_definitions takes nothing from standard input: use --management or --definitions")


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InvalidInput(f"--rabbitmqctl cannot be read as a shell would: {error}") from error
    if not words:
        raise InvalidInput("--rabbitmqctl names no command")
    return words


def _run(words: Sequence[str], given: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - the command is the caller's own
            words, input=given, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except OSError as error:
        raise InvalidInput(f"{words[0]} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise BrokerUnavailable(f"{words[0]} did not end within {_SECONDS:.0f} seconds") from error
