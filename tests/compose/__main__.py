"""`docker compose up`, for real: started, asked everything, scaled under load, broken, replaced. `make compose-test`.

With the word `images`, have the images there and built, and no more.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

from tests.compose import first_start, under_load
from tests.compose.engine import ComposeFailed
from tests.compose.provide import provide_images, sizes, why_not
from tests.compose.say import say, timed

MEGABYTES = 250


def main() -> int:
    """0 when nothing was wrong, or when there is no engine, which it says."""
    # Stopped in the middle it still takes its containers down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    reason = why_not()
    if reason is not None:
        say(f"{reason}; nothing was tried")
        return 0
    try:
        faults = list(_images() if sys.argv[1:] == ["images"] else _all())
    except ComposeFailed as error:
        faults = [str(error)]
    for fault in faults:
        say(f"failed: {fault}")
    say("failed" if faults else "passed")
    return 1 if faults else 0


def _all() -> Iterator[str]:
    yield from _images()
    yield from first_start.try_first_start()
    yield from under_load.try_under_load()


def _images() -> Iterator[str]:
    for line in provide_images():
        say(line)
    timed("build", lambda: first_start.PROJECT.compose("build"))
    found = sizes()
    say(f"{', '.join(f'{name} {size}' for name, size in found.items())} MB")
    yield from (f"the image {name} has {size} MB" for name, size in found.items() if size > MEGABYTES)


if __name__ == "__main__":
    sys.exit(main())
