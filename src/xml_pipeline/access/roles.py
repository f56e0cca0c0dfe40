"""What a key may do: each role includes those before it."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """`viewer` looks, `operator` injects and steers, `admin` does the rest."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, needed: Role) -> bool:
        """Whether this role may do what `needed` may."""
        order = tuple(Role)
        return order.index(self) >= order.index(needed)
