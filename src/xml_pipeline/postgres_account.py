"""Who the embedded PostgreSQL runs as: oneself, or, since it refuses root, nobody."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from xml_pipeline.errors import DatabaseUnavailable

# Nobody may walk through closed parent folders by this capability, so that no folder's mode has to change for it.
_WALK_ANYWHERE = (
    "--securebits=+no_setuid_fixup",
    "--inh-caps=-all,+dac_override",
    "--ambient-caps=-all,+dac_override",
    "--bounding-set=-all,+dac_override",
)


@dataclass(frozen=True, slots=True)
class Account:
    """A user, and the command that starts a program as that user, to end with this process."""

    uid: int
    gid: int
    switch: tuple[str, ...]

    def prefix(self) -> tuple[str, ...]:
        """What a command line has to begin with."""
        return self.switch

    def give(self, path: Path) -> None:
        """Make it the account's own."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid)


def server_account(*places: Path) -> Account:
    """The account for a server that has to reach these places. Raises DatabaseUnavailable."""
    setpriv = shutil.which("setpriv")
    # Fast shutdown when this process is killed.
    ending = "--pdeathsig=INT"
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), (setpriv, ending) if setpriv else ())
    if setpriv is None:
        raise DatabaseUnavailable(
            "as root the embedded PostgreSQL needs setpriv (util-linux): install it, or run as another user"
        )
    nobody = _nobody()
    user = (f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
    walk = () if all(_open_to_all(place) for place in places) else _WALK_ANYWHERE
    return Account(nobody.pw_uid, nobody.pw_gid, (setpriv, *user, *walk, ending))


def _nobody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError as error:
        raise DatabaseUnavailable(
            "as root the embedded PostgreSQL runs as the user nobody, and there is none: run as another user"
        ) from error


def _open_to_all(place: Path) -> bool:
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (place, *place.resolve().parents))
