"""A device that speaks the sync API itself, over one plain connection: it keeps no journal and mounts nothing.

Owns the connection and the numbering of its mutations. It exists so that what a measurement costs on the client's side
is little.
"""

import http.client
import os
from collections.abc import Sequence
from typing import TypeVar

from benchmarks import drives, processes
from drivefs.protocol import messages, routes, wire
from drivefs.protocol.changes import Mutation, Status
from drivefs.protocol.ids import Epoch, InodeId, OpNumber, WorkspaceId

READ_SECONDS = 120.0

M = TypeVar("M")


class DirectDevice:
    """One logged-in device with a session."""

    def __init__(self, port: int, name: str, user: str = drives.USER) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=READ_SECONDS)
        self._n = 0
        self.token = ""
        login = messages.LoginRequest(user=user, password=drives.PASSWORD, device=name)
        self.token = self.call(routes.LOGIN, login, messages.LoginReply).token
        self.token = self.call(routes.PASS, messages.Message(), messages.PassReply).token
        begun = self.call(routes.SESSION, messages.SessionRequest(next_nonce=os.urandom(16)), messages.SessionReply)
        self.epoch: Epoch = begun.epoch
        self.workspace: WorkspaceId = begun.workspaces[0].workspace
        self.root: InodeId = begun.workspaces[0].root
        self.head: messages.Cursor = begun.workspaces[0].head

    def call(self, path: str, request: messages.Message, kind: type[M]) -> M:
        """One exchange. Raises: BenchmarkError with what the server says."""
        headers = {"content-type": routes.MSGPACK, "authorization": f"Bearer {self.token}"}
        try:
            self._connection.request("POST", path, wire.encode(request), headers)
            reply = self._connection.getresponse()
        except ConnectionError:
            # The server closes what has been idle for long; every request may be sent twice.
            self._connection.close()
            self._connection.request("POST", path, wire.encode(request), headers)
            reply = self._connection.getresponse()
        body = reply.read()
        if reply.status != 200:
            raise processes.BenchmarkError(f"{path} answered {reply.status}: {body[:300]!r}")
        return wire.decode(body, kind)

    def id_range(self) -> InodeId:
        """The first id of a fresh range."""
        request = messages.IdRangesRequest(epoch=self.epoch)
        return self.call(routes.ID_RANGES, request, messages.IdRangesReply).starts[0]

    def next_n(self) -> OpNumber:
        """The number of the next mutation."""
        self._n += 1
        return OpNumber(self._n)

    def commit(self, mutations: Sequence[Mutation]) -> None:
        """Commit a batch of which everything has to be accepted. Raises: BenchmarkError where it is not."""
        request = messages.CommitRequest(epoch=self.epoch, watermark=mutations[0].n, mutations=list(mutations))
        reply = self.call(routes.COMMIT.format(workspace=self.workspace), request, messages.CommitReply)
        refused = next((result for result in reply.results if result.status is not Status.OK), None)
        if refused is not None:
            raise processes.BenchmarkError(f"a mutation was not accepted: {refused.status} {refused.reason}")
        self.head = reply.head

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
