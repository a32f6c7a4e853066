"""A real `drivefs-server` on a loopback port, as an administrator starts it.

Owns its process, which is ended with `close()`, and the directories that it is given. Every wait has a deadline.
"""

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from drivefs.protocol import blocks as codec
from drivefs.protocol import messages, routes, wire
from tests.support import launching
from tests.support.ports import free_port

M = TypeVar("M")
ROOT = Path(__file__).resolve().parent.parent.parent
DEADLINE_SECONDS = 60.0
USER, PASSWORD = "ann", "correct horse"


@dataclass
class ServerProcess:
    """The command and, once started, the server; `home` holds what it must not keep in the data directory."""

    data: Path
    home: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return launching.run(["backend", *words], text=stdin, env=self._environment(), seconds=DEADLINE_SECONDS)

    def on_data(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return self.command(*words, "--data", str(self.data), stdin=stdin)

    def add_user(self, name: str = USER) -> subprocess.CompletedProcess[str]:
        return self.on_data("user", "add", name, "--password-stdin", stdin=PASSWORD + "\n")

    def start(self, *flags: str) -> None:
        words = [sys.executable, "-m", "backend", "run", "--data", str(self.data), "--listen", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(
            [*words, *flags],
            cwd=ROOT,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self.is_healthy():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "the server does not become ready"
            time.sleep(0.05)

    def is_healthy(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                pass
            return self.exchange("GET", routes.HEALTH)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def stop(self) -> tuple[int, str, str]:
        """SIGTERM; gives the exit code and what was printed."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def close(self) -> None:
        if self.process is not None:
            self.kill()

    def exchange(self, method: str, path: str, body: bytes = b"", token: str = "") -> tuple[int, bytes]:
        connection = self.connect()
        try:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)

    def call(self, path: str, message: object, kind: type[M], token: str = "") -> M:
        body = message if isinstance(message, bytes) else wire.encode(message)
        status, reply = self.exchange("POST", path, body, token)
        assert status == 200, (status, reply)
        return wire.decode(reply, kind)

    def log_in(self, user: str = USER) -> "RemoteDevice":
        request = messages.LoginRequest(user=user, password=PASSWORD, device="laptop")
        own = self.call(routes.LOGIN, request, messages.LoginReply).token
        token = self.call(routes.PASS, b"", messages.PassReply, own).token
        session = messages.SessionRequest(next_nonce=bytes(16))
        return RemoteDevice(self, token, self.call(routes.SESSION, session, messages.SessionReply, token))

    def _environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("DRIVEFS_", "XDG_"))}
        return clean | {"XDG_CONFIG_HOME": str(self.home)} | self.environment

    def _end(self, number: signal.Signals) -> tuple[int, str, str]:
        assert self.process is not None
        process, self.process = self.process, None
        process.send_signal(number)
        printed, complaints = process.communicate(timeout=DEADLINE_SECONDS)
        return process.returncode, printed, complaints


@dataclass
class TlsServerProcess(ServerProcess):
    """The same behind TLS; whoever connects trusts `authority` alone."""

    authority: Path = Path()

    def connect(self) -> http.client.HTTPConnection:
        context = ssl.create_default_context(cafile=str(self.authority))
        return http.client.HTTPSConnection("localhost", self.port, timeout=DEADLINE_SECONDS, context=context)


@dataclass
class RemoteDevice:
    """A device logged in to a server process."""

    server: ServerProcess
    token: str
    session: messages.SessionReply

    def path(self, route: str) -> str:
        return route.format(workspace=self.session.workspaces[0].workspace)

    def put(self, *plaintexts: bytes) -> messages.PutReply:
        parts = []
        for plaintext in plaintexts:
            parts += codec.frame(codec.block_id(plaintext), codec.encode_payload(plaintext))
        path = self.path(routes.PUT_BLOCKS)
        return self.server.call(path, b"".join(parts), messages.PutReply, self.token)

    def missing(self, *plaintexts: bytes) -> int:
        request = messages.MissingRequest(blocks=[codec.block_id(each) for each in plaintexts])
        reply = self.server.call(self.path(routes.MISSING), request, messages.MissingReply, self.token)
        return len(reply.missing)

    def devices(self) -> list[messages.DeviceInfo]:
        """All devices of its user."""
        return self.server.call(routes.DEVICES, b"", messages.DevicesReply, self.token).devices

    def begin_poll(self) -> http.client.HTTPConnection:
        """Send a long poll; its reply is left to be read."""
        info = self.session.workspaces[0]
        cursor = messages.WorkspaceCursor(workspace=info.workspace, cursor=info.head)
        connection = self.server.connect()
        body = wire.encode(messages.ChangesRequest(cursors=[cursor], wait_seconds=300))
        connection.request("POST", routes.CHANGES, body, {"authorization": f"Bearer {self.token}"})
        return connection
