"""How long a gateway waits for others, and how much it holds for them."""

from __future__ import annotations

# Seconds in which PostgreSQL must have done what a request needs: then the caller is told 503. Giving up a connection
# whose server is silent takes up to two more.
ANSWER_WITHIN = 8.0

# Injects that wait for their commit, in number and in bytes of their envelopes; the next are told 503 at once.
MOST_WAITING = 5000
MOST_WAITING_BYTES = 64 * 1024 * 1024
# What goes into one commit.
BATCH = 200
BATCH_BYTES = 8 * 1024 * 1024

# What waits to be published, in number and in bytes; the rest is left to the sweeps of the routers.
MOST_UNPUBLISHED = 20_000
MOST_UNPUBLISHED_BYTES = 64 * 1024 * 1024
