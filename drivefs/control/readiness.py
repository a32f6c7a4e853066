"""Tells whoever started the mount that it answers, or why it does not: a pipe to the command, a datagram to systemd.

Owns both notations. The pipe carries one JSON object: {"ready": true} or {"error": …, "exit_code": …}; when it closes
without one, the mount died. The datagram is the `sd_notify` protocol (sd_notify(3)): newline-separated assignments to
the socket named by $NOTIFY_SOCKET, where a leading `@` stands for the abstract namespace.
"""

import json
import os
import socket
from collections.abc import Mapping
from typing import Any


class Readiness:
    """The way back to the starter; each of the two channels may be absent."""

    def __init__(self, pipe: int | None, environ: Mapping[str, str]) -> None:
        self._pipe = pipe
        self._notify = environ.get("NOTIFY_SOCKET", "")

    def ready(self, description: str) -> None:
        """The mount answers; `description` is shown by `systemctl status`."""
        self._write({"ready": True})
        self._send(f"READY=1\nSTATUS={description}\nMAINPID={os.getpid()}")

    def failed(self, message: str, exit_code: int) -> None:
        """The mount ends before it answered."""
        self._write({"error": message, "exit_code": exit_code})
        self._send(f"STATUS={message}")

    def stopping(self) -> None:
        """The mount was told to end."""
        self._send("STOPPING=1")

    def _write(self, message: dict[str, Any]) -> None:
        if self._pipe is None:
            return
        pipe, self._pipe = self._pipe, None
        try:
            os.write(pipe, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            # The command was interrupted; the mount does not depend on it.
            pass
        finally:
            os.close(pipe)

    def _send(self, assignments: str) -> None:
        if not self._notify:
            return
        address = "\0" + self._notify[1:] if self._notify.startswith("@") else self._notify
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
            try:
                notifier.sendto(assignments.encode(), address)
            except OSError:
                # A service manager that does not listen is no reason to end a working mount.
                return
