"""Installing RabbitMQ on Debian without the package starting a broker of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.processes import SupportError

_POLICY = Path("/usr/sbin/policy-rc.d")
_LOCK = Path("/run/lock/xml-pipeline-apt.lock")
_FORBID_SERVICES = "#!/bin/sh\nexit 101\n"


def can_install() -> bool:
    """Whether this is a Debian where packages may be installed."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(package: str) -> None:
    """Install a Debian package; its services are not started."""
    with _one_at_a_time(), _services_forbidden():
        _apt("update")
        _apt("install", "--yes", "--no-install-recommends", package)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    _LOCK.parent.mkdir(parents=True, exist_ok=True)
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _services_forbidden() -> Iterator[None]:
    """Debian packages ask policy-rc.d before they start a service; what was there is put back."""
    kept = _POLICY.with_name("policy-rc.d.kept-by-tests")
    if _POLICY.exists() and not kept.exists():
        _POLICY.rename(kept)
    try:
        _POLICY.write_text(_FORBID_SERVICES)
        _POLICY.chmod(0o755)
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
        if kept.exists():
            kept.rename(_POLICY)


def _apt(*arguments: str) -> None:
    command = ["apt-get", "--quiet", "-o", "DPkg::Lock::Timeout=300", *arguments]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise SupportError(f"apt-get {arguments[0]} failed: {' '.join(reason)}")
