"""A RabbitMQ node of the tests' own: its name, ports, cookie and data are its alone, and it needs no root."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.processes import SupportError, end, free_port, spawn, tail, wait_until

# Debian's /usr/sbin/rabbitmq-server changes to the user rabbitmq, or refuses: the script behind it does not.
_BINARIES = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server", "/usr/sbin/rabbitmq-server")
_START_SECONDS = 90.0
_CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.relative = 0.6
log.console = false
"""
_MANAGEMENT = """\
management.tcp.ip = 127.0.0.1
management.tcp.port = {port}
"""


def find_binary() -> Path | None:
    """The rabbitmq-server of this machine, if it has one."""
    for candidate in _BINARIES:
        found = shutil.which(candidate)
        if found:
            return Path(found)
    return None


def greeting(port: int, host: str = "127.0.0.1") -> bytes | None:
    """What a broker says to an AMQP client before anybody logged in; None when nobody answers."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2) as peer:
        peer.sendall(b"AMQP\x00\x00\x09\x01")
        return peer.recv(4096) or None
    return None


def version(said: bytes) -> str:
    """The broker's version, from its greeting."""
    _, found, rest = said.partition(b"\x07versionS")
    length = int.from_bytes(rest[:4], "big")
    return rest[4 : 4 + length].decode() if found else "of unknown version"


class RabbitMQNode:
    """One node that can be stopped, killed, suspended and started again with what it had stored.

    `beside`: a node that it may form a cluster with, since the two know one secret and find each other.
    """

    def __init__(
        self,
        binary: Path,
        *,
        port: int | None = None,
        folder: Path | None = None,
        management: bool = False,
        beside: RabbitMQNode | None = None,
    ) -> None:
        self.port = port or free_port()
        self._management_port = free_port() if management else None
        self._binary = binary
        self._keep_folder = folder is not None
        self._folder = folder or Path(tempfile.mkdtemp(prefix="xml-pipeline-rabbitmq-"))
        self._beside = beside
        self._epmd_port: int = beside._epmd_port if beside else free_port()
        self._cookie: str = beside._cookie if beside else secrets.token_hex(16)
        self._name = f"xml-pipeline-{secrets.token_hex(4)}@localhost"
        self._epmd: subprocess.Popen[bytes] | None = None
        self._node: subprocess.Popen[bytes] | None = None
        self._env = self._environment()
        self._write_files()

    @property
    def url(self) -> str:
        """The AMQP URL of the default virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def management_url(self) -> str:
        """Where its management plugin answers, with an administrator's login."""
        if self._management_port is None:
            raise SupportError("this RabbitMQ node was started without its management plugin")
        return f"http://guest:guest@127.0.0.1:{self._management_port}"

    @property
    def control_command(self) -> str:
        """The rabbitmqctl of this node, for a shell."""
        known = ("HOME", "ERL_EPMD_PORT", "RABBITMQ_CONF_ENV_FILE")
        variables = [f"{name}={self._env[name]}" for name in known]
        return shlex.join(["env", *variables, str(self._binary.with_name("rabbitmqctl")), "-q", "-n", self._name])

    @property
    def pid(self) -> int:
        """The process id of the running node."""
        if self._node is None or self._node.poll() is not None:
            raise SupportError("the RabbitMQ node is not running")
        return self._node.pid

    def start(self) -> None:
        """Start the node, and return when it greets clients."""
        self._start_epmd()
        self._node = spawn([str(self._binary)], env=self._env, cwd=self._folder, log=self._log)
        try:
            wait_until(self._ready, timeout=_START_SECONDS, what="RabbitMQ answers", interval=0.1)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop the node in order, keeping what it stored."""
        if self._node is not None:
            end(self._node, grace=30)

    def kill(self) -> None:
        """End the node with SIGKILL."""
        if self._node is not None and self._node.poll() is None:
            self._node.kill()
            self._node.wait()

    def suspend(self) -> None:
        """Freeze the node: its connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended node go on."""
        os.kill(self.pid, signal.SIGCONT)

    def wipe(self) -> None:
        """Forget everything that a stopped node had stored."""
        if self._node is not None and self._node.poll() is None:
            raise SupportError("stop the RabbitMQ node before wiping it")
        shutil.rmtree(self._folder / "data", ignore_errors=True)

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl on this node, and return what it printed."""
        return self._run(["rabbitmqctl", "--quiet", "--node", self._name, *arguments])

    def join(self, other: RabbitMQNode) -> None:
        """Become a member of the cluster of a node that this one was made beside."""
        self.control("stop_app")
        self.control("join_cluster", other._name)
        self.control("start_app")

    def close(self) -> None:
        """Stop the node and remove what it left."""
        self.stop()
        if self._epmd is not None:
            end(self._epmd)
        if not self._keep_folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _log(self) -> Path:
        return self._folder / "output.log"

    def _ready(self) -> bool:
        if self._node is not None and self._node.poll() is not None:
            raise SupportError(f"RabbitMQ ended while starting:\n{tail(self._log)}")
        managed = self._management_port is None or _accepts(self._management_port)
        return managed and greeting(self.port) is not None

    def _run(self, command: Sequence[str]) -> str:
        script = self._binary.with_name(command[0])
        done = subprocess.run(
            [str(script), *command[1:]], env=self._env, cwd=self._folder, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise SupportError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def _start_epmd(self) -> None:
        """Start the port mapper in the foreground: one that Erlang starts would outlive the tests."""
        if self._beside is not None or (self._epmd is not None and self._epmd.poll() is None):
            return
        epmd = shutil.which("epmd")
        if epmd is None:
            raise SupportError("epmd, a part of Erlang that RabbitMQ needs, is not on the PATH")
        self._epmd = spawn([epmd, "-port", str(self._epmd_port)], env=self._env, cwd=self._folder, log=self._log)
        wait_until(lambda: _accepts(self._epmd_port), timeout=10, what="Erlang's port mapper answers")

    def _write_files(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        management = "" if self._management_port is None else _MANAGEMENT.format(port=self._management_port)
        (self._folder / "rabbitmq.conf").write_text(_CONFIG.format(port=self.port) + management)
        (self._folder / "advanced.config").write_text("[].\n")
        (self._folder / "enabled_plugins").write_text("[rabbitmq_management].\n" if management else "[].\n")
        (self._folder / "rabbitmq-env.conf").write_text("")
        cookie = self._folder / ".erlang.cookie"
        cookie.unlink(missing_ok=True)
        cookie.touch(mode=0o600)
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_"))}
        return {
            **inherited,
            "HOME": str(self._folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_PID_FILE": str(self._folder / "pid"),
            # Replaces the starting shell by the node, so that our child is the node and signals reach it.
            "RUNNING_UNDER_SYSTEMD": "1",
        }


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
