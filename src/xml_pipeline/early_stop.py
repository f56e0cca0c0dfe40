"""A stop that comes before there is anything to stop. Importing all that a service is made of takes a second."""

from __future__ import annotations

import os
import signal

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_at_once_when_asked() -> None:
    """Until the process has handlers of its own, a stop ends it: with 0, since it was asked to end and nothing is lost.

    The first process of a container would otherwise not hear of it at all.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: os._exit(0))
