"""The sync API as typed calls, one for each message, each with its deadline.

Owns which call goes to which route, how long it may take and how often it is tried; knows nothing of what the answers
are for. All calls may be made again without harm, and are, except `login`, which a person repeats, and `changes`, which
the follower does. Invariant: every call ends, within its policy's `total_seconds`, in an answer or a `RemoteError`.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import httpx
import msgspec
import trio

from drivefs.protocol import accounting, history, links, messages, notifications, routes, sharing, wire
from drivefs.protocol import blocks as codec
from drivefs.protocol.ids import BlockId, DeviceId, InodeId, Seq, WorkspaceId
from drivefs.remote import belief, errors, retry, transport
from drivefs.remote.pace import GRACE_SECONDS, Pace, transfer_seconds
from drivefs.remote.transport import Exchange

T = TypeVar("T")
Arrived = Callable[[list[codec.Frame]], Awaitable[None]]
"""Takes blocks as they arrive, in the order asked for; while it runs, no more is read."""

ONCE = retry.Policy(attempts=1, attempt_seconds=30.0, total_seconds=30.0)
QUICK = retry.Policy(attempts=3, attempt_seconds=90.0, total_seconds=90.0)
"""Calls that someone waits for. They end much sooner when nothing comes (`ANSWER_SECONDS`): the rest of the time is for
answers that come slowly."""
ANSWER_SECONDS = 12.0
"""How long whoever waits for an answer waits while nothing comes: a server that has frozen is noticed so soon."""
PATIENCE_PART = 1 / 3
"""After this part of it, the request is made once more on a new connection: the first one may be dead."""
THOROUGH = retry.Policy(attempts=3, attempt_seconds=60.0, total_seconds=120.0)
"""Commits: up to 4 MiB go out, and the server may have queued others before."""
POLL_GRACE_SECONDS = 15.0
"""How long past its own wait a long poll may take to be answered."""
FETCH_FAILURES = 3
"""How often in a row a download may break without bringing a single block."""


class Remote:
    """One server, as one device (`token`) or none. `jitter` gives random numbers from 0 to 1.

    Opening one sends nothing. The `client` is `transport.open_client`'s, or one with a transport of a test's.

    Raises:
        errors.InsecureUrl: see `transport.check_url`.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        client: httpx.AsyncClient,
        jitter: retry.Jitter,
        allow_insecure: bool = False,
    ) -> None:
        self.url = transport.check_url(url, allow_insecure=allow_insecure)
        self._jitter = jitter
        self.answer_seconds = ANSWER_SECONDS
        """How long a call that someone waits for may stay without a sign of an answer."""
        self._transport = transport.Transport(self.url, token, client)

    async def health(self) -> messages.Health:
        """Make sure that a drivefs server that this program can speak with is there.

        Raises:
            errors.NotDrivefs, errors.OtherProtocol, errors.UntrustedServer, errors.Offline
        """
        exchange = self._impatient(Exchange(routes.HEALTH, method="GET", expects="application/json"))
        body = await retry.call(lambda: self._transport.exchange(exchange), QUICK, self._jitter)
        try:
            health = msgspec.json.decode(body, type=messages.Health)
        except msgspec.DecodeError as error:
            raise errors.NotDrivefs(f"what answers at {self.url} is not a drivefs server") from error
        if health.service != "drivefs":
            raise errors.NotDrivefs(f"what answers at {self.url} is not a drivefs server but {health.service[:80]!r}")
        if health.protocol != routes.PROTOCOL:
            raise errors.OtherProtocol(
                f"the server at {self.url} speaks version {health.protocol} of the protocol, this program "
                f"{routes.PROTOCOL}: update the older of the two"
            )
        return health

    async def login(self, request: messages.LoginRequest) -> messages.LoginReply:
        """Exchange a password for a token of this device's own; tried once only.

        Raises:
            errors.Refused: `wrong_password`, `too_many_attempts`; errors.Offline and below
        """
        return await self._call(routes.LOGIN, request, messages.LoginReply, ONCE)

    async def logout(self) -> None:
        """Make the token worthless.

        Raises:
            errors.Refused: `unauthenticated`, `device_revoked`: it is so already; errors.Offline and below
        """
        await self._exchange(Exchange(routes.LOGOUT), QUICK)

    async def session(self, request: messages.SessionRequest) -> messages.SessionReply:
        """Begin a mount; the same request may be sent twice.

        Raises:
            errors.Refused, errors.Offline and below, as all calls that follow
        """
        return await self._call(routes.SESSION, request, messages.SessionReply)

    async def id_ranges(self, request: messages.IdRangesRequest) -> messages.IdRangesReply:
        """Take ranges of inode ids; a lost reply costs a range, of which there are enough."""
        return await self._call(routes.ID_RANGES, request, messages.IdRangesReply)

    async def usage(self) -> messages.UsageReply:
        """The account's figures."""
        return self._decode(await self._exchange(Exchange(routes.USAGE), QUICK), messages.UsageReply)

    async def shares(self) -> sharing.SharesReply:
        """The shares that hang in the caller's drive, or that he owns."""
        return self._decode(await self._exchange(Exchange(routes.SHARES), QUICK), sharing.SharesReply)

    async def share(self, request: sharing.ShareRequest) -> sharing.ShareInfo:
        """Invite a user to a folder, or give one who is there another role; twice is the same as once."""
        return await self._call(routes.SHARE, request, sharing.ShareInfo)

    async def unshare(self, request: sharing.UnshareRequest) -> None:
        """End the membership of one user, or of all."""
        await self._exchange(Exchange(routes.UNSHARE, (wire.encode(request),)), QUICK)

    async def invitations(self) -> sharing.InvitationsReply:
        """What waits for the caller's answer."""
        return self._decode(await self._exchange(Exchange(routes.INVITATIONS), QUICK), sharing.InvitationsReply)

    async def answer(self, request: sharing.AnswerRequest) -> None:
        """Accept an invitation, decline it, or leave."""
        await self._exchange(Exchange(routes.ANSWER, (wire.encode(request),)), QUICK)

    async def quota(self) -> accounting.QuotaReply:
        """What the account may use, and what it does use for what."""
        return self._decode(await self._exchange(Exchange(routes.QUOTA), THOROUGH), accounting.QuotaReply)

    async def public_links(self) -> links.LinksReply:
        """The public links that the caller made."""
        return self._decode(await self._exchange(Exchange(routes.LINKS), QUICK), links.LinksReply)

    async def create_link(self, request: links.CreateLinkRequest) -> links.LinkReply:
        """Make a public link."""
        return await self._call(routes.CREATE_LINK, request, links.LinkReply)

    async def revoke_link(self, request: links.RevokeLinkRequest) -> None:
        """End a public link."""
        await self._exchange(Exchange(routes.REVOKE_LINK, (wire.encode(request),)), QUICK)

    async def notified(self, request: notifications.NotificationsRequest) -> notifications.NotificationsReply:
        """What the user is told of, behind a number."""
        reply = await self._call(routes.NOTIFICATIONS, request, notifications.NotificationsReply)
        self._check_gets_on(
            has_more=reply.more, is_behind=any(each.number > request.since for each in reply.notifications[-1:])
        )
        return reply

    async def activity(self, request: notifications.ActivityRequest) -> notifications.ActivityReply:
        """Who did what to a file or in a folder, a part of it."""
        return await self._call(routes.ACTIVITY, request, notifications.ActivityReply)

    async def mute(self, request: notifications.MuteRequest) -> None:
        """Mute a folder, or end it."""
        await self._exchange(Exchange(routes.MUTE, (wire.encode(request),)), QUICK)

    async def muted(self) -> notifications.MutedReply:
        """The folders that are muted."""
        return self._decode(await self._exchange(Exchange(routes.MUTED), QUICK), notifications.MutedReply)

    async def count(self, workspace: WorkspaceId) -> messages.CountReply:
        """How many files there are."""
        exchange = Exchange(routes.COUNT.format(workspace=workspace))
        return self._decode(await self._exchange(exchange, QUICK), messages.CountReply)

    async def list_directory(self, workspace: WorkspaceId, request: messages.ListRequest) -> messages.ListReply:
        """One page of a directory."""
        reply = await self._call(routes.LIST.format(workspace=workspace), request, messages.ListReply)
        self._check_gets_on(
            has_more=reply.more, is_behind=any(each.name > request.after for each in reply.entries[-1:])
        )
        return reply

    async def list_many(self, workspace: WorkspaceId, request: messages.ListManyRequest) -> messages.ListManyReply:
        """The beginnings of several directories, whole where they are short."""
        return await self._call(routes.LIST_MANY.format(workspace=workspace), request, messages.ListManyReply)

    async def inodes(self, workspace: WorkspaceId, request: messages.InodesRequest) -> messages.InodesReply:
        """States of single inodes."""
        return await self._call(routes.INODES.format(workspace=workspace), request, messages.InodesReply)

    async def content(self, workspace: WorkspaceId, request: messages.ContentRequest) -> messages.ContentReply:
        """The block list of a revision."""
        return await self._call(routes.CONTENT.format(workspace=workspace), request, messages.ContentReply)

    async def revisions(self, workspace: WorkspaceId, request: history.RevisionsRequest) -> history.RevisionsReply:
        """One page of a file's history."""
        reply = await self._call(routes.REVISIONS.format(workspace=workspace), request, history.RevisionsReply)
        self._check_gets_on(
            has_more=reply.more, is_behind=any(each.number > request.after for each in reply.revisions[-1:])
        )
        return reply

    async def keep(self, workspace: WorkspaceId, request: history.KeepRequest) -> None:
        """Mark a revision to be kept for good, or take the mark away."""
        await self._exchange(Exchange(routes.KEEP.format(workspace=workspace), (wire.encode(request),)), QUICK)

    async def trash(self, workspace: WorkspaceId, request: history.TrashRequest) -> history.TrashReply:
        """One page of what was removed."""
        reply = await self._call(routes.TRASH.format(workspace=workspace), request, history.TrashReply)
        last = [_back(each.place) for each in reply.entries[-1:]]
        is_behind = bool(last) and (request.after is None or last[0] < _back(request.after))
        self._check_gets_on(has_more=reply.more, is_behind=is_behind)
        return reply

    async def empty_trash(self, workspace: WorkspaceId, request: history.EmptyTrashRequest) -> history.EmptyTrashReply:
        """Let a part of what was removed go for good."""
        path = routes.EMPTY_TRASH.format(workspace=workspace)
        reply = await self._call(path, request, history.EmptyTrashReply)
        self._check_gets_on(has_more=reply.more, is_behind=reply.count > 0)
        return reply

    async def moment(self, workspace: WorkspaceId, request: history.MomentRequest) -> history.MomentReply:
        """Where the drive stood at a time."""
        return await self._call(routes.MOMENT.format(workspace=workspace), request, history.MomentReply)

    async def snapshots(self, workspace: WorkspaceId) -> history.SnapshotsReply:
        """All named moments."""
        exchange = Exchange(routes.SNAPSHOTS.format(workspace=workspace))
        return self._decode(await self._exchange(exchange, QUICK), history.SnapshotsReply)

    async def create_snapshot(
        self, workspace: WorkspaceId, request: history.CreateSnapshotRequest
    ) -> history.SnapshotInfo:
        """Give a moment a name."""
        return await self._call(routes.CREATE_SNAPSHOT.format(workspace=workspace), request, history.SnapshotInfo)

    async def delete_snapshot(self, workspace: WorkspaceId, request: history.DeleteSnapshotRequest) -> None:
        """Take a name away."""
        exchange = Exchange(routes.DELETE_SNAPSHOT.format(workspace=workspace), (wire.encode(request),))
        await self._exchange(exchange, QUICK)

    async def commit(self, workspace: WorkspaceId, request: messages.CommitRequest) -> messages.CommitReply:
        """Offer mutations; one answer for each, whatever became of it."""
        path = routes.COMMIT.format(workspace=workspace)
        reply = await self._call(path, request, messages.CommitReply, THOROUGH)
        if not {result.n for result in reply.results} <= {mutation.n for mutation in request.mutations}:
            raise errors.NotDrivefs(f"the server at {self.url} answered a change that was not sent to it")
        return reply

    async def changes(self, request: messages.ChangesRequest, *, is_anew: bool = False) -> messages.ChangesReply:
        """The long poll; tried once, and answered at the latest a little after `request.wait_seconds`.

        `is_anew`: no connection that there was before is believed in any more, and all are given up.
        """
        if is_anew:
            self._transport.distrust()
        seconds = request.wait_seconds + POLL_GRACE_SECONDS
        policy = retry.Policy(attempts=1, attempt_seconds=seconds, total_seconds=seconds)
        exchange = Exchange(routes.CHANGES, (wire.encode(request),), stall_seconds=seconds)
        return self._decode(await self._exchange(exchange, policy), messages.ChangesReply)

    async def presence(self, request: messages.PresenceRequest) -> messages.PresenceReply:
        """Say what this device is sending and has still to send."""
        return await self._call(routes.PRESENCE, request, messages.PresenceReply)

    async def devices(self) -> list[messages.DeviceInfo]:
        """All devices of this device's user."""
        reply = self._decode(await self._exchange(Exchange(routes.DEVICES), QUICK), messages.DevicesReply)
        return reply.devices

    async def revoke(self, device: DeviceId) -> None:
        """End a device of the same user."""
        request = wire.encode(messages.RevokeRequest(device=device))
        await self._exchange(Exchange(routes.REVOKE, (request,)), QUICK)

    async def missing(self, workspace: WorkspaceId, blocks: Sequence[BlockId]) -> list[BlockId]:
        """Which of these blocks the backend lacks, in their order; the others are pinned for this device."""
        path, found = routes.MISSING.format(workspace=workspace), list[BlockId]()
        for first in range(0, len(blocks), messages.MAX_BLOCKS_PER_REQUEST):
            asked = list(blocks[first : first + messages.MAX_BLOCKS_PER_REQUEST])
            reply = await self._call(path, messages.MissingRequest(blocks=asked), messages.MissingReply)
            found += reply.missing
        return found

    async def let_go(self, workspace: WorkspaceId, kept: Sequence[BlockId]) -> None:
        """Give the room back of what was sent and is not committed, but for these: it has to be asked for again."""
        first = messages.MAX_BLOCKS_PER_REQUEST
        request = messages.MissingRequest(blocks=list(kept[:first]), lets_go=True)
        await self._call(routes.MISSING.format(workspace=workspace), request, messages.MissingReply)
        await self.missing(workspace, kept[first:])

    async def lost(self, workspace: WorkspaceId, after: bytes) -> messages.LostReply:
        """Which blocks the backend needs and has lost, behind a given one."""
        return await self._call(
            routes.LOST.format(workspace=workspace), messages.LostRequest(after=after), messages.LostReply
        )

    async def put_blocks(self, workspace: WorkspaceId, payloads: Sequence[tuple[BlockId, codec.Parts]]) -> None:
        """Send payloads, together up to `messages.MAX_TRANSFER_BYTES`; on return they are durable there and pinned."""
        body = tuple(part for block, payload in payloads for part in codec.frame_parts(block, payload))
        seconds = transfer_seconds(sum(map(len, body)))
        policy = retry.Policy(attempts=3, attempt_seconds=seconds, total_seconds=2 * seconds)
        exchange = Exchange(routes.PUT_BLOCKS.format(workspace=workspace), body, sends=routes.FRAMED)
        reply = self._decode(await self._exchange(exchange, policy), messages.PutReply)
        if reply.stored_count < len(payloads):
            raise errors.Offline(f"the server took {reply.stored_count} of {len(payloads)} blocks only")

    async def get_blocks(self, workspace: WorkspaceId, blocks: Sequence[BlockId], arrived: Arrived) -> None:
        """Fetch blocks; `arrived` gets each once: its payload, not yet verified, or None if the backend lacks it.

        When the connection breaks, only what has not arrived is asked for again. On return all have arrived. What
        `arrived` raises ends the transfer and is passed on; cancellation likewise.
        """
        waiting = dict.fromkeys(blocks)
        failures = 0
        while waiting:
            before = len(waiting)
            try:
                await self._get_once(workspace, waiting, arrived)
                if len(waiting) == before:
                    raise errors.Offline(f"the server at {self.url} sent none of the blocks asked for")
            except errors.Offline as error:
                failures = failures + 1 if len(waiting) == before else 1
                if failures >= FETCH_FAILURES or not retry.is_worth_retrying(error):
                    raise
                await trio.sleep(retry.delay_seconds(failures, self._jitter))

    async def _get_once(self, workspace: WorkspaceId, waiting: dict[BlockId, None], arrived: Arrived) -> None:
        request = wire.encode(messages.BlocksRequest(blocks=list(waiting)[: messages.MAX_BLOCKS_PER_REQUEST]))
        exchange = Exchange(routes.GET_BLOCKS.format(workspace=workspace), (request,), expects=routes.FRAMED)
        exchange = self._impatient(exchange)
        pace = Pace(trio.current_time(), GRACE_SECONDS)
        async with self._transport.stream(exchange) as pieces:
            reader = codec.FrameReader()
            async for piece in pieces:
                pace.check(len(piece), trio.current_time())
                with transport.translated(self.url):
                    frames = reader.feed(piece)
                if frames:
                    await self._hand_over(frames, waiting, arrived)
                    pace.resume(trio.current_time())
            with transport.translated(self.url):
                reader.close()

    async def _hand_over(self, frames: list[codec.Frame], waiting: dict[BlockId, None], arrived: Arrived) -> None:
        for frame in frames:
            if frame.block not in waiting:
                raise errors.NotDrivefs(f"the server at {self.url} sent a block that was not asked for")
            del waiting[frame.block]
        await arrived(frames)

    def _check_gets_on(self, *, has_more: bool, is_behind: bool) -> None:
        """Whoever asks for the next part asks for what is behind the last of this one: that is not to go on for ever.

        Raises:
            errors.NotDrivefs: there is more, and what came is not behind what was there.
        """
        if has_more and not is_behind:
            raise errors.NotDrivefs(f"the server at {self.url} says that there is more and does not get on")

    async def _call(self, path: str, request: messages.Message, kind: type[T], policy: retry.Policy = QUICK) -> T:
        return self._decode(await self._exchange(Exchange(path, (wire.encode(request),)), policy), kind)

    async def _exchange(self, exchange: Exchange, policy: retry.Policy) -> bytes:
        if policy is QUICK:
            exchange = self._impatient(exchange)
        return await retry.call(lambda: self._transport.exchange(exchange), policy, self._jitter)

    def _impatient(self, exchange: Exchange) -> Exchange:
        """The same exchange for someone who waits."""
        patience = self.answer_seconds * PATIENCE_PART
        return replace(exchange, patience_seconds=patience, stall_seconds=self.answer_seconds - patience)

    def _decode(self, body: bytes, kind: type[T]) -> T:
        try:
            with transport.translated(self.url):
                message = wire.decode(body, kind)
                belief.check(message)
        except errors.NotDrivefs:
            self._transport.distrust()
            raise
        return message


def _back(place: history.TrashPlace) -> tuple[Seq, InodeId, bytes]:
    """In the order of the trash, which begins with the highest."""
    return place.seq, place.parent, place.name
