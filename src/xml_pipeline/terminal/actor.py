"""Who uses the command line, for the audit log."""

from __future__ import annotations

import getpass


def command_line_actor() -> str:
    """The user of this process, where it has a name."""
    try:
        return f"command line: {getpass.getuser()}"
    except (KeyError, OSError):
        return "command line"
