"""The sync API: msgpack messages and framed blocks over POST, as `routes` and `messages` say.

Owns the way from a request to a service call and back; no rules. Each route is an ASGI application of its own, so that
bodies can be streamed both ways. The long poll is `poll`'s.
"""

from contextlib import aclosing, suppress
from typing import Any

import anyio
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from backend.api import poll, problems, requests
from backend.api.endpoints import Endpoint, Endpoints, Framed, Shape
from backend.api.services import Services
from backend.api.sharing import sharing_routes
from backend.api.telling import telling_routes
from backend.notify import hub
from backend.service.caller import Caller
from backend.service.intake import Disconnected
from drivefs.protocol import blocks as codec
from drivefs.protocol import history, messages, routes
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.ids import WorkspaceId

MAX_LOGIN_BYTES = 16 * 2**10


class BlockDownload:
    """The route that streams blocks: refusals come before the first byte of the body, or not at all."""

    shape = Shape(messages.BlocksRequest, Framed)

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        blocks = self._services.blocks
        try:
            caller = await requests.caller(scope, self._services)
            request = await requests.message(scope, receive, messages.BlocksRequest)
            located = await blocks.locate(caller, requests.workspace(scope), request.blocks)
        except ProtocolError as error:
            await problems.response(error)(scope, receive, send)
            return
        except Disconnected:
            return
        except Exception as error:
            await problems.unexpected(error)(scope, receive, send)
            return

        async def check_shares() -> None:
            await blocks.check_shares(caller, located)

        topics = [] if located.drive is None else [hub.of_workspace(located.drive)]
        with requests.still_let_in(scope, self._services, caller, *topics, check_more=check_shares) as check:
            headers = [(b"content-type", routes.FRAMED.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            is_over = False

            async def send_parts(parts: list[codec.Bytes]) -> None:
                nonlocal is_over
                try:
                    if not is_over:
                        await check()
                        message = {"type": "http.response.body", "body": b"".join(parts), "more_body": True}
                        await requests.send_in_time(send, message)
                except (ProtocolError, Disconnected):
                    # Revoked, out of the share, or frozen: it gets no more; the body ends before its list of blocks.
                    is_over = True

            await blocks.send(located, send_parts)
        with suppress(Disconnected):
            await requests.send_in_time(send, {"type": "http.response.body", "body": b"", "more_body": False})


class SyncApi:
    """Binds routes to services."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        """All routes of the sync API."""
        services, make = self._services, Endpoints(self._services)
        found: dict[str, Any] = {
            routes.LOGIN: Endpoint(self._login, Shape(messages.LoginRequest, messages.LoginReply, is_open=True)),
            routes.PASS: Endpoint(self._pass, Shape(None, messages.PassReply)),
            routes.LOGOUT: make.of_caller(self._logout),
            routes.SESSION: make.asked(messages.SessionRequest, services.sessions.begin),
            routes.ID_RANGES: make.asked(messages.IdRangesRequest, services.sessions.id_ranges),
            routes.USAGE: make.of_caller(services.sessions.usage),
            routes.QUOTA: make.of_caller(services.accounting.quota),
            routes.CHANGES: poll.ChangesPoll(services),
            routes.PRESENCE: make.asked(messages.PresenceRequest, self._presence),
            routes.DEVICES: make.of_caller(services.devices.own),
            routes.REVOKE: make.asked(messages.RevokeRequest, self._revoke),
            **sharing_routes(services),
            **telling_routes(services),
            routes.LIST: make.about(messages.ListRequest, services.listing.list_directory),
            routes.LIST_MANY: make.about(messages.ListManyRequest, services.listing.list_many),
            routes.INODES: make.about(messages.InodesRequest, services.listing.inodes),
            routes.COUNT: make.within(services.listing.count),
            routes.CONTENT: make.about(messages.ContentRequest, services.listing.content),
            routes.REVISIONS: make.about(history.RevisionsRequest, services.revisions.list),
            routes.KEEP: make.about(history.KeepRequest, services.revisions.keep),
            routes.MOMENT: make.about(history.MomentRequest, services.listing.moment),
            routes.SNAPSHOTS: make.within(services.snapshots.list),
            routes.CREATE_SNAPSHOT: make.about(history.CreateSnapshotRequest, services.snapshots.create),
            routes.DELETE_SNAPSHOT: make.about(history.DeleteSnapshotRequest, services.snapshots.delete),
            routes.TRASH: make.about(history.TrashRequest, services.trash.list),
            routes.EMPTY_TRASH: make.about(history.EmptyTrashRequest, services.trash.empty),
            routes.COMMIT: make.about(messages.CommitRequest, self._commit, messages.MAX_BATCH_BYTES),
            routes.MISSING: make.about(messages.MissingRequest, self._missing),
            routes.LOST: make.about(messages.LostRequest, self._lost),
            routes.PUT_BLOCKS: Endpoint(self._put_blocks, Shape(Framed, messages.PutReply)),
            routes.GET_BLOCKS: BlockDownload(services),
        }
        return [Route(path, endpoint, methods=["POST"]) for path, endpoint in found.items()]

    async def _login(self, scope: Scope, receive: Receive) -> messages.LoginReply:
        request = await requests.message(scope, receive, messages.LoginRequest, MAX_LOGIN_BYTES)
        address = scope["client"][0] if scope.get("client") else ""
        return await self._services.accounts.login(request, address)

    async def _pass(self, scope: Scope, receive: Receive) -> messages.PassReply:
        return await self._services.accounts.give_pass(requests.token(scope))

    async def _logout(self, caller: Caller) -> None:
        await self._services.devices.revoke(caller, caller.device)

    async def _commit(
        self, caller: Caller, workspace: WorkspaceId, request: messages.CommitRequest
    ) -> messages.CommitReply:
        # What has begun is done, also when the device goes away: it asks for the result by op id.
        with anyio.CancelScope(shield=True):
            reply = await self._services.commits.commit(caller, workspace, request)
        return reply

    async def _missing(
        self, caller: Caller, workspace: WorkspaceId, request: messages.MissingRequest
    ) -> messages.MissingReply:
        if request.lets_go:
            await self._services.blocks.let_go(caller, workspace)
        return await self._services.blocks.missing(caller, workspace, request.blocks)

    async def _lost(self, caller: Caller, workspace: WorkspaceId, request: messages.LostRequest) -> messages.LostReply:
        return await self._services.blocks.lost(caller, workspace, request.after)

    async def _put_blocks(self, scope: Scope, receive: Receive) -> messages.PutReply:
        caller, blocks = await requests.caller(scope, self._services), self._services.blocks
        workspace = requests.workspace(scope)
        drive = await blocks.drive_of_writer(caller, workspace)

        async def check_role() -> None:
            await blocks.drive_of_writer(caller, workspace)

        topics = [] if drive == workspace else [hub.of_workspace(drive)]
        with requests.still_let_in(scope, self._services, caller, *topics, check_more=check_role) as check:
            arriving = requests.body(scope, receive, messages.MAX_TRANSFER_BYTES)
            async with aclosing(requests.checked(arriving, check)) as body:
                return await blocks.put(caller, workspace, body)

    async def _presence(self, caller: Caller, request: messages.PresenceRequest) -> messages.PresenceReply:
        self._services.devices.told(caller, request.pending)
        return await self._services.uploads.report(caller, request)

    async def _revoke(self, caller: Caller, request: messages.RevokeRequest) -> None:
        await self._services.devices.revoke(caller, request.device)
