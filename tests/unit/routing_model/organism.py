"""The organism that the model runs: two agents, one of which takes no errors, and two tools, one of them mute."""

from __future__ import annotations

from uuid import UUID, uuid5

from tests.support import routing as given
from xml_pipeline.organism.model import Organism

SPACE = UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
THREADS = tuple(uuid5(SPACE, f"thread {n}") for n in range(3))
WINDOWS = {"ann": 1, "bob": 2, "tool": 3, "log": 1}
MAX_TOKENS = 100

ORGANISM: Organism = given.organism(
    given.listener("ann", peers=("ann", "bob", "tool", "log"), attempts=2, backoff=4.0, timeout=10.0),
    given.listener("bob", peers=("ann", "tool"), attempts=2, backoff=1.0, timeout=10.0, accepts_errors=False),
    given.listener("tool", peers=("ann",), agent=False, attempts=1, backoff=1.0, timeout=10.0),
    given.listener("log", agent=False, responds=False, attempts=1, timeout=10.0),
)
