"""The sync API: msgpack messages and framed blocks over POST, as `routes` and `messages` say.

Owns the way from a request to a service call and back; no rules. Each route is an ASGI application of its own, so that
bodies can be streamed both ways. The long poll is `poll`'s.
"""

from contextlib import aclosing
from typing import Any, TypeVar

import anyio
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from backend.api import poll, problems, requests
from backend.api.endpoints import Empty, Endpoint
from backend.api.services import Services
from backend.api.sharing import SharingApi
from backend.api.telling import TellingApi
from backend.service.caller import Caller
from backend.service.intake import Disconnected
from drivefs.protocol import accounting, history, messages, routes
from drivefs.protocol import blocks as codec
from drivefs.protocol.errors import ProtocolError
from drivefs.protocol.ids import WorkspaceId

MAX_LOGIN_BYTES = 16 * 2**10

M = TypeVar("M")


class BlockDownload:
    """The route that streams blocks: refusals come before the first byte of the body, or not at all."""

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
        with requests.still_let_in(scope, self._services, caller) as check:
            headers = [(b"content-type", routes.FRAMED.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            is_refused = False

            async def send_parts(parts: list[codec.Bytes]) -> None:
                nonlocal is_refused
                try:
                    await check()
                except ProtocolError:
                    # Revoked meanwhile: it gets no more, and a body that ends before its list of blocks does.
                    is_refused = True
                if not is_refused:
                    await send({"type": "http.response.body", "body": b"".join(parts), "more_body": True})

            await blocks.send(located, send_parts)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class SyncApi:
    """Binds routes to services."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        """All routes of the sync API."""
        found: dict[str, Any] = {
            routes.LOGIN: Endpoint(self._login),
            routes.LOGOUT: Endpoint(self._logout),
            routes.SESSION: Endpoint(self._session),
            routes.ID_RANGES: Endpoint(self._id_ranges),
            routes.USAGE: Endpoint(self._usage),
            routes.QUOTA: Endpoint(self._quota),
            routes.CHANGES: poll.ChangesPoll(self._services),
            routes.PRESENCE: Endpoint(self._presence),
            routes.DEVICES: Endpoint(self._devices),
            routes.REVOKE: Endpoint(self._revoke),
            **SharingApi(self._services).endpoints(),
            **TellingApi(self._services).endpoints(),
            routes.LIST: Endpoint(self._list),
            routes.LIST_MANY: Endpoint(self._list_many),
            routes.INODES: Endpoint(self._inodes),
            routes.COUNT: Endpoint(self._count),
            routes.CONTENT: Endpoint(self._content),
            routes.REVISIONS: Endpoint(self._revisions),
            routes.KEEP: Endpoint(self._keep),
            routes.MOMENT: Endpoint(self._moment),
            routes.SNAPSHOTS: Endpoint(self._snapshots),
            routes.CREATE_SNAPSHOT: Endpoint(self._create_snapshot),
            routes.DELETE_SNAPSHOT: Endpoint(self._delete_snapshot),
            routes.TRASH: Endpoint(self._trash),
            routes.EMPTY_TRASH: Endpoint(self._empty_trash),
            routes.COMMIT: Endpoint(self._commit),
            routes.MISSING: Endpoint(self._missing),
            routes.LOST: Endpoint(self._lost),
            routes.PUT_BLOCKS: Endpoint(self._put_blocks),
            routes.GET_BLOCKS: BlockDownload(self._services),
        }
        return [Route(path, endpoint, methods=["POST"]) for path, endpoint in found.items()]

    async def _login(self, scope: Scope, receive: Receive) -> messages.LoginReply:
        request = await requests.message(scope, receive, messages.LoginRequest, MAX_LOGIN_BYTES)
        address = scope["client"][0] if scope.get("client") else ""
        return await self._services.accounts.login(request, address)

    async def _logout(self, scope: Scope, receive: Receive) -> Empty:
        caller = await requests.caller(scope, self._services)
        await self._services.devices.revoke(caller, caller.device)
        return Empty()

    async def _session(self, scope: Scope, receive: Receive) -> messages.SessionReply:
        caller = await requests.caller(scope, self._services)
        request = await requests.message(scope, receive, messages.SessionRequest)
        return await self._services.sessions.begin(caller, request)

    async def _id_ranges(self, scope: Scope, receive: Receive) -> messages.IdRangesReply:
        caller = await requests.caller(scope, self._services)
        request = await requests.message(scope, receive, messages.IdRangesRequest)
        return await self._services.sessions.id_ranges(caller, request)

    async def _usage(self, scope: Scope, receive: Receive) -> messages.UsageReply:
        return await self._services.sessions.usage(await requests.caller(scope, self._services))

    async def _quota(self, scope: Scope, receive: Receive) -> accounting.QuotaReply:
        return await self._services.accounting.quota(await requests.caller(scope, self._services))

    async def _list(self, scope: Scope, receive: Receive) -> messages.ListReply:
        return await self._services.listing.list_directory(*await self._asked(scope, receive, messages.ListRequest))

    async def _list_many(self, scope: Scope, receive: Receive) -> messages.ListManyReply:
        return await self._services.listing.list_many(*await self._asked(scope, receive, messages.ListManyRequest))

    async def _inodes(self, scope: Scope, receive: Receive) -> messages.InodesReply:
        return await self._services.listing.inodes(*await self._asked(scope, receive, messages.InodesRequest))

    async def _count(self, scope: Scope, receive: Receive) -> messages.CountReply:
        caller = await requests.caller(scope, self._services)
        return await self._services.listing.count(caller, requests.workspace(scope))

    async def _content(self, scope: Scope, receive: Receive) -> messages.ContentReply:
        return await self._services.listing.content(*await self._asked(scope, receive, messages.ContentRequest))

    async def _revisions(self, scope: Scope, receive: Receive) -> history.RevisionsReply:
        return await self._services.revisions.list(*await self._asked(scope, receive, history.RevisionsRequest))

    async def _keep(self, scope: Scope, receive: Receive) -> Empty:
        await self._services.revisions.keep(*await self._asked(scope, receive, history.KeepRequest))
        return Empty()

    async def _trash(self, scope: Scope, receive: Receive) -> history.TrashReply:
        return await self._services.trash.list(*await self._asked(scope, receive, history.TrashRequest))

    async def _empty_trash(self, scope: Scope, receive: Receive) -> history.EmptyTrashReply:
        return await self._services.trash.empty(*await self._asked(scope, receive, history.EmptyTrashRequest))

    async def _moment(self, scope: Scope, receive: Receive) -> history.MomentReply:
        return await self._services.listing.moment(*await self._asked(scope, receive, history.MomentRequest))

    async def _snapshots(self, scope: Scope, receive: Receive) -> history.SnapshotsReply:
        caller = await requests.caller(scope, self._services)
        return await self._services.snapshots.list(caller, requests.workspace(scope))

    async def _create_snapshot(self, scope: Scope, receive: Receive) -> history.SnapshotInfo:
        asked = await self._asked(scope, receive, history.CreateSnapshotRequest)
        return await self._services.snapshots.create(*asked)

    async def _delete_snapshot(self, scope: Scope, receive: Receive) -> Empty:
        await self._services.snapshots.delete(*await self._asked(scope, receive, history.DeleteSnapshotRequest))
        return Empty()

    async def _commit(self, scope: Scope, receive: Receive) -> messages.CommitReply:
        caller = await requests.caller(scope, self._services)
        workspace = requests.workspace(scope)
        request = await requests.message(scope, receive, messages.CommitRequest, messages.MAX_BATCH_BYTES)
        # What has begun is done, also when the device goes away: it asks for the result by op id.
        with anyio.CancelScope(shield=True):
            reply = await self._services.commits.commit(caller, workspace, request)
        return reply

    async def _missing(self, scope: Scope, receive: Receive) -> messages.MissingReply:
        caller, workspace, request = await self._asked(scope, receive, messages.MissingRequest)
        return await self._services.blocks.missing(caller, workspace, request.blocks)

    async def _lost(self, scope: Scope, receive: Receive) -> messages.LostReply:
        caller, workspace, request = await self._asked(scope, receive, messages.LostRequest)
        return await self._services.blocks.lost(caller, workspace, request.after)

    async def _put_blocks(self, scope: Scope, receive: Receive) -> messages.PutReply:
        caller = await requests.caller(scope, self._services)
        with requests.still_let_in(scope, self._services, caller) as check:
            arriving = requests.body(scope, receive, messages.MAX_TRANSFER_BYTES)
            async with aclosing(requests.checked(arriving, check)) as body:
                return await self._services.blocks.put(caller, requests.workspace(scope), body)

    async def _presence(self, scope: Scope, receive: Receive) -> messages.PresenceReply:
        caller = await requests.caller(scope, self._services)
        request = await requests.message(scope, receive, messages.PresenceRequest)
        self._services.devices.told(caller, request.pending)
        return await self._services.uploads.report(caller, request)

    async def _devices(self, scope: Scope, receive: Receive) -> messages.DevicesReply:
        return await self._services.devices.own(await requests.caller(scope, self._services))

    async def _revoke(self, scope: Scope, receive: Receive) -> Empty:
        caller = await requests.caller(scope, self._services)
        request = await requests.message(scope, receive, messages.RevokeRequest)
        await self._services.devices.revoke(caller, request.device)
        return Empty()

    async def _asked(self, scope: Scope, receive: Receive, kind: type[M]) -> tuple[Caller, WorkspaceId, M]:
        """What a request about a workspace says: who asks, about which, and the message."""
        caller = await requests.caller(scope, self._services)
        workspace = requests.workspace(scope)
        return caller, workspace, await requests.message(scope, receive, kind)
